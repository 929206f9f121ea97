"""Processes and their events, as rows."""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, select, update

from slurmbridge.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    IllegalTransition,
    UnknownProcess,
)
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, ReviewState
from slurmbridge.model import (
    Attestation,
    Event,
    InstalledRequirements,
    OutputFile,
    Process,
    Progress,
    Review,
    StagedFile,
    TraceSummary,
    job_name,
)
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import claims, moves
from slurmbridge.store.claims import UNLIMITED, Limits
from slurmbridge.store.database import Database
from slurmbridge.store.moves import EVENT, PROCESS, Change, Claimed, Open, Wanted, add_events

DEFAULT_CLUSTER = "default"
# What can be long, and what a page has in its place.
_LONG: Mapping[str, Any] = {
    "outputs": [],
    "outputs_ignored": [],
    "inputs": [],
    "requirements": None,
}
_OF_REVIEW = ("review_by", "review_at", "review_reason", "review_location")
_SHOWN = [
    column
    for name, column in PROCESS.columns.items()
    if name in Process.model_fields or name in _OF_REVIEW
]


def packed(report: bytes) -> bytes:
    """A report as it is stored."""
    return zlib.compress(report)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The key that a submitter gave a request, and what the request was."""

    key: str
    request_sha256: str


class ProcessStore:
    """The queries on Processes. What a Runner takes and observes is of one cluster."""

    def __init__(self, database: Database, cluster: str = DEFAULT_CLUSTER) -> None:
        self._database = database
        self._cluster = cluster

    def add(
        self,
        entries: Sequence[tuple[str, ProcessSpec]],
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> None:
        """Accept Processes: all are durable when this returns, or none is.

        With `idempotency`, one that was accepted under the same key before stays the only one.
        """
        columns: dict[str, Any] = {"request_sha256": None, "idempotency_key": None}
        if idempotency:
            columns["request_sha256"] = idempotency.request_sha256
            columns["idempotency_key"] = idempotency.key
        insert = self._database.insert(PROCESS).on_conflict_do_nothing(
            index_elements=["submitted_by", "idempotency_key"]
        )
        # Not by its rowcount, which SQLAlchemy does not keep of an INSERT on PostgreSQL.
        accepting = insert.returning(PROCESS.c.id)
        detail = f"accepted from {by}"
        with self._database.write() as connection:
            for process_id, spec in entries:
                row = {**_row(process_id, spec, self._cluster), **columns}
                row |= {"submitted_by": by, "created_at": now}
                if connection.execute(accepting, row).one_or_none() is not None:
                    add_events(connection, [(process_id, ProcessState.QUEUED, "api", detail)], now)

    def accepted_as(self, idempotency: Idempotency, *, by: str) -> str | None:
        """The Process that somebody's key stands for, if it stands for one.

        Raises:
            IdempotencyConflict: it stands for another request.
        """
        query = select(PROCESS.c.id, PROCESS.c.request_sha256).where(
            PROCESS.c.submitted_by == by, PROCESS.c.idempotency_key == idempotency.key
        )
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            return None
        if found[1] != idempotency.request_sha256:
            raise IdempotencyConflict(
                f"the Idempotency-Key {idempotency.key!r} belongs to Process {found[0]}, which "
                "was asked for in another way"
            )
        return str(found[0])

    def get(self, process_id: str) -> Process:
        """One Process.

        Raises:
            UnknownProcess
        """
        with self._database.read() as connection:
            row = connection.execute(select(*_SHOWN).where(PROCESS.c.id == process_id)).mappings()
            found = row.one_or_none()
        if found is None:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        return _process(found)

    def page(
        self,
        *,
        limit: int,
        before: str | None = None,
        states: Sequence[ProcessState] = (),
        label: tuple[str, str] | None = None,
        review: ReviewState | None = None,
    ) -> list[Process]:
        """Processes, newest first; those older than the id `before`. Without their lists of files
        and packages, which can be long.
        """
        columns = [column for column in _SHOWN if column.name not in _LONG]
        query = select(*columns).order_by(PROCESS.c.id.desc()).limit(limit)
        if before:
            query = query.where(PROCESS.c.id < before)
        if states:
            query = query.where(PROCESS.c.state.in_(states))
        if review:
            query = query.where(PROCESS.c.review == review)
        if label:
            key, value = label
            query = query.where(PROCESS.c.spec["labels"][key].as_string() == value)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_process({**row, **_LONG}) for row in rows]

    def script(self, process_id: str) -> str | None:
        """The script that was submitted, if it has been rendered."""
        with self._database.read() as connection:
            query = select(PROCESS.c.script).where(PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        text: str | None = rows[0][0]
        return text

    def attestation(self, process_id: str) -> Attestation | None:
        """What its container was found to be, if it has been."""
        with self._database.read() as connection:
            query = select(PROCESS.c.attestation).where(PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        if rows[0][0] is None:
            return None
        return Attestation.model_validate(rows[0][0], strict=False)

    def trace_report(self, process_id: str) -> bytes | None:
        """What a traced Process did, as JSON, if it has ended."""
        with self._database.read() as connection:
            query = select(PROCESS.c.trace_report).where(PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        return None if rows[0][0] is None else zlib.decompress(rows[0][0])

    def events(self, process_id: str) -> list[Event]:
        """What was observed and done, in order."""
        self.get(process_id)
        query = (
            select(EVENT.c.at, EVENT.c.source, EVENT.c.state, EVENT.c.detail)
            .where(EVENT.c.process_id == process_id)
            .order_by(EVENT.c.id)
        )
        with self._database.read() as connection:
            return [Event(**row) for row in connection.execute(query).mappings()]

    def request_cancel(self, process_id: str, *, by: str, now: datetime) -> Process:
        """Note that a Process shall end. What nothing has been done for yet ends here.

        Raises:
            UnknownProcess
            IllegalTransition: it has ended otherwise.
        """
        with self._database.write() as connection:
            this = PROCESS.c.id == process_id
            query = select(PROCESS.c.state, PROCESS.c.phase).where(this).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise UnknownProcess(f"there is no Process {process_id!r}")
            state, phase = row
            # After the row is locked: PostgreSQL shows each statement the roster of its beginning.
            free = connection.execute(select(moves.is_free()).where(this)).scalar_one()
            if state in FINAL_STATES:
                if state is ProcessState.CANCELED:
                    return self._reread(connection, process_id)
                raise IllegalTransition(f"Process {process_id} has already ended as {state}")
            if phase is Phase.ACCEPTED and free:
                self._cancel_now(connection, process_id, state, by, now)
            else:
                self._cancel_later(connection, process_id, state, by, now)
            return self._reread(connection, process_id)

    def _cancel_now(
        self,
        connection: Connection,
        process_id: str,
        state: ProcessState,
        by: str,
        now: datetime,
    ) -> None:
        detail = f"canceled by {by} before it was submitted"
        change = Change(
            process_id,
            state,
            ProcessState.CANCELED,
            Phase.ACCEPTED,
            Phase.DONE, "api", detail,
            {"ended_at": now, "reason": detail, "cancel_requested": True},
        )  # fmt: skip
        moves.apply(connection, [change], runner=None, now=now)

    def _cancel_later(
        self,
        connection: Connection,
        process_id: str,
        state: ProcessState,
        by: str,
        now: datetime,
    ) -> None:
        connection.execute(
            update(PROCESS).where(PROCESS.c.id == process_id).values(cancel_requested=True)
        )
        add_events(connection, [(process_id, state, "api", f"cancel requested by {by}")], now)

    def _reread(self, connection: Connection, process_id: str) -> Process:
        query = select(*_SHOWN).where(PROCESS.c.id == process_id)
        return _process(connection.execute(query).mappings().one())

    def claim(
        self,
        phase: Phase,
        *,
        runner: str,
        limit: int,
        now: datetime,
        limits: Limits = UNLIMITED,
    ) -> list[Claimed]:
        """Take up to `limit` Processes in a phase that nobody holds, oldest first.

        What waits to be prepared is taken only as far as there is room for it.
        """
        where = claims.due(self._cluster, phase, now)
        with self._database.read() as connection:
            if not claims.any_due(connection, where):
                return []
        with self._database.write() as connection:
            if phase is Phase.ACCEPTED and limits != UNLIMITED:
                # Two that count at the same time would both find the last place free.
                self._database.lock(connection, f"admission to {self._cluster}")
                ids = claims.admitted(connection, self._cluster, where, limits, most=limit)
            else:
                ids = claims.candidates(connection, where, most=limit)
            if not ids:
                return []
            take = (
                update(PROCESS)
                .where(PROCESS.c.id.in_(ids), PROCESS.c.phase == phase, moves.is_free())
                .values(claimed_by=runner)
                .returning(*(PROCESS.c[name] for name in _CLAIMED_FIELDS))
            )
            rows = connection.execute(take).mappings().all()
        return sorted((_claimed(row) for row in rows), key=lambda entry: entry.id)

    def let_go(self, process_ids: Iterable[str], *, runner: str) -> None:
        """A Runner works on these no longer. Those that it does not hold stay as they are.

        A database that is away keeps nobody from going on: see `let_go_all`.
        """
        ids = list(process_ids)
        if ids:
            with suppress(DatabaseUnavailable):
                self._let_go(PROCESS.c.id.in_(ids) & (PROCESS.c.claimed_by == runner))

    def let_go_all(self, *, runner: str, but: Collection[str] = ()) -> None:
        """A Runner holds nothing `but` what it works on: what it did not know that it had got, and
        what it could not let go of, is free.
        """
        held = (PROCESS.c.claimed_by == runner) & PROCESS.c.id.not_in(but)
        with self._database.read() as connection:
            found = connection.execute(select(PROCESS.c.id).where(held).limit(1)).one_or_none()
        if found is not None:
            self._let_go(held)

    def _let_go(self, where: ColumnElement[bool]) -> None:
        with self._database.write() as connection:
            connection.execute(update(PROCESS).where(where).values(claimed_by=None))

    def holds(self, process_id: str, *, runner: str) -> bool:
        """Whether a Runner's claim still stands."""
        query = select(PROCESS.c.id).where(PROCESS.c.id == process_id, moves.is_held_by(runner))
        with self._database.read() as connection:
            return connection.execute(query).one_or_none() is not None

    def report(self, process_id: str, progress: Progress, *, runner: str) -> Wanted:
        """Note how far files have been moved, and say whether that is still wanted."""
        this = (PROCESS.c.id == process_id) & moves.is_held_by(runner)
        query = update(PROCESS).where(this).values(progress=progress.model_dump(mode="json"))
        with self._database.write() as connection:
            found = connection.execute(query.returning(PROCESS.c.cancel_requested)).one_or_none()
        if found is None:
            return Wanted.ELSEWHERE
        return Wanted.NO if found[0] else Wanted.YES

    def apply(
        self,
        changes: Sequence[Change],
        *,
        runner: str | None,
        now: datetime,
        observer: str | None = None,
    ) -> frozenset[str]:
        """Write moves, in one transaction where nobody interferes; return the ids of those lost.

        A move is lost, and nothing of it written, when its Process is no longer as the change says
        or, with a `runner`, no longer held by it. A hold ends with the move unless it says `keep`.
        What an `observer` writes, who holds nothing, is lost when it is not on the roster any more.
        """
        if not changes:
            return frozenset()
        try:
            with self._database.write() as connection:
                moves.apply(connection, changes, runner=runner, now=now, observer=observer)
        except moves.Moved:
            if len(changes) == 1:
                return frozenset({changes[0].process_id})
            lost = (
                self.apply([change], runner=runner, now=now, observer=observer)
                for change in changes
            )
            return frozenset().union(*lost)
        return frozenset()

    def note(
        self,
        process_ids: Iterable[str],
        values: Mapping[str, Any],
        *,
        runner: str | None = None,
    ) -> None:
        """Set columns that are no part of a state, without an event."""
        query = update(PROCESS).where(PROCESS.c.id.in_(list(process_ids))).values(**values)
        if runner is not None:
            query = query.where(PROCESS.c.claimed_by == runner)
        with self._database.write() as connection:
            connection.execute(query)

    def in_progress(self, cluster: str) -> int:
        """How many Processes were taken on a cluster and not collected yet."""
        with self._database.read() as connection:
            return claims.in_progress(connection, cluster).total

    def observed(self) -> list[Open]:
        """All Processes whose job has an id and has not been seen to end."""
        query = select(*(PROCESS.c[name] for name in _OPEN_FIELDS)).where(
            PROCESS.c.phase == Phase.SUBMITTED, PROCESS.c.cluster == self._cluster
        )
        with self._database.read() as connection:
            return [Open(**row) for row in connection.execute(query).mappings()]


_CLAIMED_FIELDS = tuple(Claimed.__dataclass_fields__)
_OPEN_FIELDS = tuple(Open.__dataclass_fields__)


def _row(process_id: str, spec: ProcessSpec, cluster: str) -> dict[str, Any]:
    return {
        "id": process_id,
        "state": ProcessState.QUEUED,
        "phase": Phase.ACCEPTED,
        "spec": spec.model_dump(mode="json"),
        "cluster": cluster,
        "account": spec.account or "",
        "partition": spec.partition or "",
        "job_name": job_name(process_id),
        "cancel_requested": False,
        "restarts": 0,
        "outputs": [],
        "outputs_ignored": [],
        "inputs": [],
    }


def _process(row: Mapping[Any, Any]) -> Process:
    values = dict(row)
    values["spec"] = ProcessSpec.model_validate(row["spec"], strict=False)
    values["outputs"] = tuple(OutputFile(**entry) for entry in row["outputs"])
    values["outputs_ignored"] = tuple(row["outputs_ignored"])
    values["inputs"] = tuple(StagedFile(**entry) for entry in row["inputs"])
    if row["requirements"] is not None:
        found = InstalledRequirements.model_validate(row["requirements"], strict=False)
        values["requirements"] = found
    decided = {name: values.pop(name) for name in _OF_REVIEW}
    if row["review"] is not None:
        about = {name.removeprefix("review_"): value for name, value in decided.items()}
        values["review"] = Review(state=row["review"], **about)
    if row["traced"] is not None:
        values["traced"] = TraceSummary.model_validate(row["traced"], strict=False)
    return Process(**values)


def _claimed(row: RowMapping) -> Claimed:
    values = dict(row)
    values["spec"] = ProcessSpec.model_validate(row["spec"], strict=False)
    return Claimed(**values)
