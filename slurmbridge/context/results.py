"""What was carried to a Data Store, read again."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slurmbridge.context.tree import Below, Tree
from slurmbridge.errors import StagingFailed
from slurmbridge.shell import LocalFiles, NotPlain
from slurmbridge.stores.store import Source

_CHUNK = 1 << 20


class Results:
    """The folders that Processes got in the Data Stores; `remote` opens those of other hosts, when
    one of them is asked for.
    """

    def __init__(
        self,
        stores: Mapping[str, Path],
        remote: Callable[[], Mapping[str, Tree]] = dict,
    ) -> None:
        self._stores = stores
        self._remote = remote

    @contextmanager
    def open(self, location: str, name: str) -> Iterator[Source]:
        """A file below `location`, a folder in the form store:path.

        Raises:
            StagingFailed: it is not there, or cannot be read on this host.
            StoreForbids: the store is not there for reading.
        """
        store, _, path = location.partition(":")
        try:
            with self._tree(store).open(f"{path}/{name}") as file:
                yield file
        except (OSError, NotPlain) as error:
            why = getattr(error, "strerror", None) or error
            raise StagingFailed(f"{location}/{name} cannot be read: {why}") from error

    @contextmanager
    def files(self, location: str, names: Iterable[str]) -> Iterator[Mapping[str, Path]]:
        """Files below `location` as files of this host, by their names, for as long as the block
        lasts. Those of another host are brought.

        Raises:
            StagingFailed, StoreForbids: as `open`.
        """
        store, _, path = location.partition(":")
        if store in self._stores:
            folder = self._stores[store] / path
            yield {name: folder / name for name in names}
            return
        with tempfile.TemporaryDirectory(prefix="slurmbridge-") as folder_name:
            found = {}
            for number, name in enumerate(names):
                found[name] = Path(folder_name, str(number))
                self._bring(location, name, found[name])
            yield found

    def _bring(self, location: str, name: str, target: Path) -> None:
        with self.open(location, name) as file, target.open("xb") as out:
            while data := file.read(_CHUNK):
                out.write(data)

    def _tree(self, store: str) -> Tree:
        if store in self._stores:
            return Below(LocalFiles(), self._stores[store])
        remote = self._remote()
        if store not in remote:
            raise StagingFailed(f"the store {store} is not configured any more")
        return remote[store]
