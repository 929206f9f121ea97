"""Who works: the Runners that live, what each does for all, and how often Slurm was asked.

A Runner lives as long as the count in its row goes up. Others watch the count, and strike it off
when it has stood still for some of their own beats: no clock of one host is compared with
another's, so that one that is wrong costs nobody its work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import delete, insert, or_, select, update

from slurmbridge.store.database import Database
from slurmbridge.store.moves import RUNNER
from slurmbridge.store.tables import CallRow, RoleRow

_ROLE = RoleRow.__table__  # type: ignore[attr-defined]
_CALL = CallRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """A Runner and what it last knew."""

    id: str
    host: str
    transport: str
    heartbeat_at: datetime
    scheduler_error: str | None
    cluster: str = "default"
    beat: int = 0


class Roster:
    """The rows of Runners and of roles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, status: RunnerStatus) -> None:
        """A Runner begins to work."""
        values = {entry.name: getattr(status, entry.name) for entry in fields(status)}
        with self._database.write() as connection:
            connection.execute(insert(RUNNER), [values])

    def beat(self, status: RunnerStatus) -> bool:
        """Write what a Runner knows, with its count gone up by one; False: it was struck off."""
        values = {entry.name: getattr(status, entry.name) for entry in fields(status)}
        query = (
            update(RUNNER)
            .where(RUNNER.c.id == status.id, RUNNER.c.beat == status.beat - 1)
            .values(values)
        )
        with self._database.write() as connection:
            return connection.execute(query).rowcount > 0

    def beats(self) -> dict[str, int]:
        """The count of every Runner that is on the roster."""
        with self._database.read() as connection:
            return {
                row[0]: row[1] for row in connection.execute(select(RUNNER.c.id, RUNNER.c.beat))
            }

    def strike(self, runner: str, beat: int) -> bool:
        """Take a Runner off the roster, and so take from it all that it holds, unless it has moved.

        What it writes from now on is lost.
        """
        query = delete(RUNNER).where(RUNNER.c.id == runner, RUNNER.c.beat == beat)
        with self._database.write() as connection:
            return connection.execute(query).rowcount > 0

    def leave(self, runner: str) -> None:
        """A Runner ends in good order."""
        with self._database.write() as connection:
            connection.execute(delete(RUNNER).where(RUNNER.c.id == runner))

    def runners(self, *, since: datetime) -> list[RunnerStatus]:
        """Runners heard of since then, the latest first."""
        query = select(RUNNER).where(RUNNER.c.heartbeat_at >= since)
        query = query.order_by(RUNNER.c.heartbeat_at.desc())
        with self._database.read() as connection:
            return [RunnerStatus(**row) for row in connection.execute(query).mappings()]

    def take_role(self, role: str, runner: str) -> bool:
        """Whether a Runner has a role now: it had, or nobody who lives had."""
        with self._database.read() as connection:
            query = select(_ROLE.c.holder).where(_ROLE.c.name == role)
            holder = connection.execute(query).scalar_one_or_none()
            if holder is not None:
                there = connection.execute(select(RUNNER.c.id).where(RUNNER.c.id == holder))
                if there.one_or_none() is not None:
                    return bool(holder == runner)
        free = or_(_ROLE.c.holder == runner, _ROLE.c.holder.not_in(select(RUNNER.c.id)))
        upsert = self._database.insert(_ROLE).values(name=role, holder=runner)
        upsert = upsert.on_conflict_do_update(
            index_elements=["name"], set_={"holder": runner}, where=free
        )
        with self._database.write() as connection:
            # Who waits here sees the roster as it is afterwards.
            self._database.lock(connection, f"role {role}")
            return connection.execute(upsert.returning(_ROLE.c.name)).one_or_none() is not None

    def count_calls(self, cluster: str, calls: Mapping[str, tuple[int, int]]) -> None:
        """Add (calls, failures) of each kind to what was counted before."""
        with self._database.write() as connection:
            for kind, (made, failed) in sorted(calls.items()):
                new = self._database.insert(_CALL).values(
                    cluster=cluster, kind=kind, calls=made, failures=failed
                )
                upsert = new.on_conflict_do_update(
                    index_elements=["cluster", "kind"],
                    set_={"calls": _CALL.c.calls + made, "failures": _CALL.c.failures + failed},
                )
                connection.execute(upsert)

    def calls(self) -> dict[str, dict[str, tuple[int, int]]]:
        """How often each cluster was asked for what, and how often in vain."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(_CALL)).mappings():
                kinds = found.setdefault(row["cluster"], {})
                kinds[row["kind"]] = (row["calls"], row["failures"])
        return found
