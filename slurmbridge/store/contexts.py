"""Which contexts are to be destroyed, and when one was."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, update

from slurmbridge.lifecycle import Phase
from slurmbridge.store.database import Database
from slurmbridge.store.moves import PROCESS, add_events, is_on_roster

# In one statement; a database bounds how many values that may have.
_AT_ONCE = 500


class ContextLedger:
    """What is known of the contexts of a cluster."""

    def __init__(self, database: Database, cluster: str = "default") -> None:
        self._database = database
        self._cluster = cluster

    def due(self, names: Sequence[str], *, now: datetime) -> list[str]:
        """Of these contexts, those that nobody needs any more."""
        return self._select(_unneeded(now) & (PROCESS.c.cluster == self._cluster), names)

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of these names that no Process has, on whatever cluster."""
        known = set(self._select(PROCESS.c.id.is_not(None), names))
        return [name for name in names if name not in known]

    def open(self, *, now: datetime, most: int) -> list[str]:
        """The Processes whose context should be gone, and was not noted to be."""
        where = _unneeded(now) & (PROCESS.c.cluster == self._cluster)
        query = select(PROCESS.c.id).where(where, PROCESS.c.context_destroyed_at.is_(None))
        with self._database.read() as connection:
            return [row[0] for row in connection.execute(query.limit(most))]

    def destroyed(
        self, process_ids: Sequence[str], detail: str, *, runner: str, now: datetime
    ) -> None:
        """Note that contexts are gone, with an event for each; once, whoever else notes it, and
        only by a Runner that is on the roster.
        """
        with self._database.write() as connection:
            for process_id in process_ids:
                noted = connection.execute(
                    update(PROCESS)
                    .where(PROCESS.c.id == process_id, PROCESS.c.context_destroyed_at.is_(None))
                    .where(is_on_roster(runner))
                    .values(context_destroyed_at=now)
                    .returning(PROCESS.c.state)
                ).one_or_none()
                if noted is not None:
                    add_events(connection, [(process_id, noted[0], "runner", detail)], now)

    def _select(self, where: ColumnElement[bool], names: Sequence[str]) -> list[str]:
        found: list[str] = []
        with self._database.read() as connection:
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                query = select(PROCESS.c.id).where(where, PROCESS.c.id.in_(some))
                found += [row[0] for row in connection.execute(query)]
        return found


def _unneeded(now: datetime) -> ColumnElement[bool]:
    """Nothing is left to be done for a Process, and its context need not be kept."""
    until = PROCESS.c.context_until
    return and_(PROCESS.c.phase == Phase.DONE, or_(until.is_(None), until <= now))
