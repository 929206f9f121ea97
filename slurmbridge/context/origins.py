"""Where code and inputs come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurmbridge.context.commits import Mirrors
from slurmbridge.context.copying import IN_FOLDERS, NOBODY, Pace, Reading, Watching
from slurmbridge.context.tree import Below
from slurmbridge.errors import StagingFailed
from slurmbridge.shell import LocalFiles

_HERE = LocalFiles()


@dataclass(frozen=True, slots=True)
class Origins:
    """Stores that are folders of this host, those that are not,
    and mirrors of repositories.
    """

    folders: Mapping[str, Path]
    remote: Mapping[str, Reading] = field(default_factory=dict)
    mirrors: Mirrors | None = None
    watch: Watching = NOBODY

    @property
    def pace(self) -> Pace:
        """How files of this host are copied."""
        return Pace(IN_FOLDERS, watch=self.watch)

    def find(self, store: str) -> Reading:
        """A store. Raises StagingFailed: it is not there, which may pass."""
        if store in self.remote:
            place = self.remote[store]
            place = replace(place, pace=replace(place.pace, watch=self.watch))
            try:
                place.tree.look("")
            except FileNotFoundError:
                raise StagingFailed(f"the store {store} is missing") from None
            return place
        if store not in self.folders or not self.folders[store].is_dir():
            raise StagingFailed(f"the folder of the store {store} is missing")
        return Reading(Below(_HERE, self.folders[store]), self.pace)
