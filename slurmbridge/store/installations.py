"""Which requirements are installed on a cluster, and which jobs install some."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, select, update

from slurmbridge.model import InstalledRequirements, Locked
from slurmbridge.store.database import Database
from slurmbridge.store.tables import InstallationRow, InstallationState

_INSTALLATION = InstallationRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Installation:
    """The latest attempt to install requirements."""

    key: str
    attempt: int
    state: InstallationState
    asked_at: datetime
    job_id: int | None = None
    ended_at: datetime | None = None
    fault: str | None = None
    sentence: str | None = None
    installed: InstalledRequirements | None = None


class InstallationStore:
    """One row for each set of requirements that was ever asked for. Every move asks for the row as
    it was seen.
    """

    def __init__(self, database: Database, cluster: str = "default") -> None:
        self._database = database
        self._cluster = cluster

    def get(self, key: str) -> Installation | None:
        """What is known of these requirements."""
        with self._database.read() as connection:
            query = select(_INSTALLATION).where(self._here(key))
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        values = {name: row[name] for name in Installation.__dataclass_fields__ if name in row}
        return Installation(**values, installed=_installed(row))

    def ask(self, seen: Installation | None, asked: Installation) -> bool:
        """Say that an attempt is about to be submitted; False when somebody else was first."""
        values = asdict(asked)
        del values["installed"]
        values |= {"sha256": None, "size_bytes": None, "lock": []}
        with self._database.write() as connection:
            if seen is None:
                insert = self._database.insert(_INSTALLATION).values(
                    cluster=self._cluster, **values
                )
                # Not by its rowcount, which SQLAlchemy does not keep of an INSERT on PostgreSQL.
                new = insert.on_conflict_do_nothing(index_elements=["cluster", "key"])
                returned = connection.execute(new.returning(_INSTALLATION.c.key))
                return returned.one_or_none() is not None
            done = connection.execute(
                update(_INSTALLATION)
                .where(self._here(seen.key))
                .where(_INSTALLATION.c.attempt == seen.attempt)
                .where(_INSTALLATION.c.state == seen.state)
                .values(**values)
            )
            return done.rowcount > 0

    def bind(self, asked: Installation, job_id: int) -> bool:
        """Record the job of an attempt."""
        return self._move(asked, job_id=job_id)

    def made(self, asked: Installation, found: InstalledRequirements, *, now: datetime) -> bool:
        """End an attempt well; False when it had ended, or another had begun."""
        lock = [entry.model_dump(mode="json") for entry in found.lock]
        return self._move(
            asked,
            state=InstallationState.MADE,
            ended_at=now,
            sha256=found.sha256,
            size_bytes=found.size_bytes,
            lock=lock,
        )

    def failed(self, asked: Installation, fault: str, sentence: str, *, now: datetime) -> bool:
        """End an attempt in vain; False when it had ended, or another had begun."""
        values = {"ended_at": now, "fault": fault, "sentence": sentence}
        return self._move(asked, state=InstallationState.FAILED, **values)

    def _here(self, key: str) -> ColumnElement[bool]:
        here: ColumnElement[bool] = (_INSTALLATION.c.cluster == self._cluster) & (
            _INSTALLATION.c.key == key
        )
        return here

    def _move(self, asked: Installation, **values: object) -> bool:
        with self._database.write() as connection:
            done = connection.execute(
                update(_INSTALLATION)
                .where(self._here(asked.key))
                .where(_INSTALLATION.c.attempt == asked.attempt)
                .where(_INSTALLATION.c.state == InstallationState.ASKED)
                .values(**values)
            )
            return done.rowcount > 0


def _installed(row: RowMapping) -> InstalledRequirements | None:
    if row["sha256"] is None:
        return None
    lock = tuple(Locked.model_validate(entry, strict=False) for entry in row["lock"])
    return InstalledRequirements(
        key=row["key"], sha256=row["sha256"], size_bytes=row["size_bytes"], lock=lock
    )
