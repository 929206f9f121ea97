"""What was carried to a Data Store, read again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from slurmbridge.errors import StagingFailed
from slurmbridge.shell import LocalFiles, NotPlain


class Results:
    """The folders that Processes got in the Data Stores."""

    def __init__(self, stores: Mapping[str, Path]) -> None:
        self._stores = stores

    def folder(self, location: str) -> Path:
        """The folder of a location in the form store:path.

        Raises:
            StagingFailed: there is no such store on this host.
        """
        root, path = self._place(location)
        return root / path

    def _place(self, location: str) -> tuple[Path, str]:
        store, _, path = location.partition(":")
        if store not in self._stores:
            raise StagingFailed(f"the store {store} is not configured any more")
        return self._stores[store], path

    @contextmanager
    def open(self, location: str, name: str) -> Iterator[BinaryIO]:
        """A file below `location`, a folder in the form store:path.

        Raises:
            StagingFailed: it is not there, or cannot be read on this host.
        """
        root, path = self._place(location)
        try:
            with LocalFiles().open(root, f"{path}/{name}") as file:
                yield file
        except (OSError, NotPlain) as error:
            why = getattr(error, "strerror", None) or error
            raise StagingFailed(f"{location}/{name} cannot be read: {why}") from error
