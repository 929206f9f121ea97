"""Stores that are there for one thing alone."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from slurmbridge.errors import StoreForbids
from slurmbridge.stores.store import DataStore, Source, StoreEntry, Target


class ReadOnly:
    """A store from which one reads and nothing else."""

    def __init__(self, store: DataStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """See DataStore."""
        return self._store.name

    def look(self, path: str) -> StoreEntry:
        """See DataStore."""
        return self._store.look(path)

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """See DataStore."""
        return self._store.list(path, limit)

    def open(
        self, path: str, offset: int = 0, version: str | None = None
    ) -> AbstractContextManager[Source]:
        """See DataStore."""
        return self._store.open(path, offset, version)

    def create(self, path: str, size: int | None = None) -> AbstractContextManager[Target]:
        """Raises StoreForbids."""
        raise self._refusal()

    def make_folder(self, path: str) -> None:
        """Raises StoreForbids."""
        raise self._refusal()

    def remove(self, path: str) -> None:
        """Raises StoreForbids."""
        raise self._refusal()

    def check(self) -> None:
        """See DataStore."""
        self._store.check()

    def close(self) -> None:
        """See DataStore."""
        self._store.close()

    def _refusal(self) -> StoreForbids:
        return StoreForbids(f"store {self.name}: nothing is written to it (write = false)")


class UploadOnly:
    """A store to which one adds, and from which nothing is read. What has a name can be looked at,
    so that one knows what has arrived.
    """

    def __init__(self, store: DataStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """See DataStore."""
        return self._store.name

    def look(self, path: str) -> StoreEntry:
        """See DataStore."""
        return self._store.look(path)

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """Raises StoreForbids."""
        raise self._refusal()

    def open(
        self, path: str, offset: int = 0, version: str | None = None
    ) -> AbstractContextManager[Source]:
        """Raises StoreForbids."""
        raise self._refusal()

    def create(self, path: str, size: int | None = None) -> AbstractContextManager[Target]:
        """See DataStore."""
        return self._store.create(path, size)

    def make_folder(self, path: str) -> None:
        """See DataStore."""
        self._store.make_folder(path)

    def remove(self, path: str) -> None:
        """See DataStore."""
        self._store.remove(path)

    def check(self) -> None:
        """See DataStore."""
        self._store.check()

    def close(self) -> None:
        """See DataStore."""
        self._store.close()

    def _refusal(self) -> StoreForbids:
        return StoreForbids(f"store {self.name}: nothing is read from it (read = false)")
