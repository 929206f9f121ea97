"""What is known of nodes, and which examinations are under way."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, select, update

from slurmbridge.model import NodeReadiness
from slurmbridge.store.database import Database
from slurmbridge.store.tables import NodeRow

_NODE = NodeRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Examination:
    """A node's row. `asked_at` is set while an answer is awaited; it is also the job's token.

    `observed_at` is when the latest examination ended, with a report or without one.
    """

    node: str
    asked_at: datetime | None = None
    job_id: int | None = None
    observed_at: datetime | None = None
    readiness: NodeReadiness | None = None

    @property
    def began(self) -> datetime:
        """Since when an answer is awaited."""
        assert self.asked_at is not None
        return self.asked_at


class NodeStore:
    """One row for each node that was ever asked. Every move asks for the row as it was seen."""

    def __init__(self, database: Database, cluster: str = "default") -> None:
        self._database = database
        self._cluster = cluster

    @property
    def _here(self) -> ColumnElement[bool]:
        here: ColumnElement[bool] = _NODE.c.cluster == self._cluster
        return here

    def all(self) -> list[Examination]:
        """Every node, by name."""
        with self._database.read() as connection:
            rows = (
                connection.execute(select(_NODE).where(self._here).order_by(_NODE.c.name))
                .mappings()
                .all()
            )
        return [
            Examination(
                row["name"],
                row["asked_at"],
                row["job_id"],
                row["observed_at"],
                _readiness(row["readiness"]),
            )
            for row in rows
        ]

    def ask(self, seen: Examination, *, now: datetime) -> bool:
        """Say that an examination is about to be submitted; False when somebody else was first."""
        insert = self._database.insert(_NODE).values(cluster=self._cluster, name=seen.node)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_nothing(index_elements=["cluster", "name"]))
            done = connection.execute(
                update(_NODE)
                .where(self._here, _NODE.c.name == seen.node)
                .where(_NODE.c.asked_at.is_not_distinct_from(seen.asked_at))
                .where(_NODE.c.observed_at.is_not_distinct_from(seen.observed_at))
                .values(asked_at=now, job_id=None)
            )
            return done.rowcount > 0

    def bind(self, asked: Examination, job_id: int) -> bool:
        """Record the job of an examination."""
        return self._move(asked, job_id=job_id)

    def remark(self, asked: Examination, readiness: NodeReadiness) -> bool:
        """Say something of a node while its examination goes on."""
        return self._move(asked, readiness=readiness.model_dump(mode="json"))

    def conclude(self, asked: Examination, readiness: NodeReadiness, *, now: datetime) -> bool:
        """End an examination; False when it had ended, or another had begun."""
        values = {"observed_at": now, "readiness": readiness.model_dump(mode="json")}
        return self._move(asked, asked_at=None, job_id=None, **values)

    def forget(self, node: str) -> None:
        """The node is not in the cluster any more."""
        with self._database.write() as connection:
            connection.execute(delete(_NODE).where(self._here, _NODE.c.name == node))

    def _move(self, asked: Examination, **values: object) -> bool:
        with self._database.write() as connection:
            done = connection.execute(
                update(_NODE)
                .where(self._here, _NODE.c.name == asked.node)
                .where(_NODE.c.asked_at == asked.asked_at)
                .values(**values)
            )
            return done.rowcount > 0


def _readiness(value: object) -> NodeReadiness | None:
    return None if value is None else NodeReadiness.model_validate(value, strict=False)
