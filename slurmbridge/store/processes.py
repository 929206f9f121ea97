"""Processes and their events. A state changes here or nowhere."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    insert,
    or_,
    select,
    update,
)

from slurmbridge.errors import IllegalTransition, UnknownProcess
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, is_legal
from slurmbridge.model import (
    Attestation,
    Event,
    OutputFile,
    Process,
    ProcessSpec,
    StagedFile,
    TraceSummary,
    job_name,
)
from slurmbridge.store.database import Database
from slurmbridge.store.tables import ProcessEventRow, ProcessRow

_PROCESS = ProcessRow.__table__  # type: ignore[attr-defined]
_EVENT = ProcessEventRow.__table__  # type: ignore[attr-defined]
_LONG = {"outputs", "outputs_ignored", "inputs"}
_SHOWN = [column for name, column in _PROCESS.columns.items() if name in Process.model_fields]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A Process that a Runner holds, with what it needs to act on it."""

    id: str
    state: ProcessState
    phase: Phase
    spec: ProcessSpec
    job_name: str
    job_id: int | None
    slurm_state: str | None
    cancel_requested: bool
    intended_at: datetime | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    ended_at: datetime | None
    missing_since: datetime | None
    image_sha256: str | None = None
    script_sha256: str | None = None
    # What its container had to be; None before it was intended.
    sealing: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A Process whose job is observed, with what an observation is compared with."""

    id: str
    state: ProcessState
    job_name: str
    job_id: int
    slurm_state: str | None
    slurm_reason: str | None
    nodes: str | None
    created_at: datetime
    missing_since: datetime | None
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One move of one Process, with the evidence. `values` are further columns.

    Without a `detail` no event is written.
    """

    process_id: str
    before: ProcessState
    after: ProcessState
    before_phase: Phase
    phase: Phase
    source: str
    detail: str
    values: Mapping[str, Any] = field(default_factory=dict)


def again(claimed: Claimed, change: Change) -> Change:
    """`change` without its event, when it only says once more what the last one said."""
    same = claimed.reason == change.values.get("reason") and claimed.state is change.after
    return replace(change, detail="") if same else change


def packed(report: bytes) -> bytes:
    """A report as it is stored."""
    return zlib.compress(report)


class _Moved(Exception):
    """Another has moved a Process; the transaction is undone."""


class ProcessStore:
    """The queries on Processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Replaced whole and never changed, for the heartbeat reads it from another thread.
        self._held: frozenset[str] = frozenset()

    def add(self, entries: Sequence[tuple[str, ProcessSpec]], *, by: str, now: datetime) -> None:
        """Accept Processes: all are durable when this returns, or none is."""
        with self._database.write() as connection:
            connection.execute(
                insert(_PROCESS),
                [
                    {
                        "id": process_id,
                        "state": ProcessState.QUEUED,
                        "phase": Phase.ACCEPTED,
                        "spec": spec.model_dump(mode="json"),
                        "submitted_by": by,
                        "created_at": now,
                        "job_name": job_name(process_id),
                        "cancel_requested": False,
                        "outputs": [],
                        "outputs_ignored": [],
                        "inputs": [],
                    }
                    for process_id, spec in entries
                ],
            )
            detail = f"accepted from {by}"
            _add_events(
                connection,
                ((process_id, ProcessState.QUEUED, "api", detail) for process_id, _ in entries),
                now,
            )

    def get(self, process_id: str) -> Process:
        """One Process.

        Raises:
            UnknownProcess
        """
        with self._database.read() as connection:
            row = connection.execute(select(*_SHOWN).where(_PROCESS.c.id == process_id)).mappings()
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
    ) -> list[Process]:
        """Processes, newest first; those older than the id `before`. Without their lists of files,
        which can be long.
        """
        columns = [column for column in _SHOWN if column.name not in _LONG]
        query = select(*columns).order_by(_PROCESS.c.id.desc()).limit(limit)
        if before:
            query = query.where(_PROCESS.c.id < before)
        if states:
            query = query.where(_PROCESS.c.state.in_(states))
        if label:
            key, value = label
            query = query.where(_PROCESS.c.spec["labels"][key].as_string() == value)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_process({**row, **{name: [] for name in _LONG}}) for row in rows]

    def script(self, process_id: str) -> str | None:
        """The script that was submitted, if it has been rendered."""
        with self._database.read() as connection:
            query = select(_PROCESS.c.script).where(_PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        text: str | None = rows[0][0]
        return text

    def attestation(self, process_id: str) -> Attestation | None:
        """What its container was found to be, if it has been."""
        with self._database.read() as connection:
            query = select(_PROCESS.c.attestation).where(_PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        if rows[0][0] is None:
            return None
        return Attestation.model_validate(rows[0][0], strict=False)

    def trace_report(self, process_id: str) -> bytes | None:
        """What a traced Process did, as JSON, if it has ended."""
        with self._database.read() as connection:
            query = select(_PROCESS.c.trace_report).where(_PROCESS.c.id == process_id)
            rows = connection.execute(query).all()
        if not rows:
            raise UnknownProcess(f"there is no Process {process_id!r}")
        return None if rows[0][0] is None else zlib.decompress(rows[0][0])

    def events(self, process_id: str) -> list[Event]:
        """What was observed and done, in order."""
        self.get(process_id)
        query = (
            select(_EVENT.c.at, _EVENT.c.source, _EVENT.c.state, _EVENT.c.detail)
            .where(_EVENT.c.process_id == process_id)
            .order_by(_EVENT.c.id)
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
            query = select(
                _PROCESS.c.state,
                _PROCESS.c.phase,
                _PROCESS.c.claimed_by,
                _PROCESS.c.claimed_until,
            ).where(_PROCESS.c.id == process_id)
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None:
                raise UnknownProcess(f"there is no Process {process_id!r}")
            state, phase, claimed_by, claimed_until = row
            if state in FINAL_STATES:
                if state is ProcessState.CANCELED:
                    return self._reread(connection, process_id)
                raise IllegalTransition(f"Process {process_id} has already ended as {state}")
            held = claimed_by is not None and claimed_until is not None and claimed_until > now
            if phase is Phase.ACCEPTED and not held:
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
        _apply(connection, [change], runner=None, now=now)

    def _cancel_later(
        self,
        connection: Connection,
        process_id: str,
        state: ProcessState,
        by: str,
        now: datetime,
    ) -> None:
        connection.execute(
            update(_PROCESS).where(_PROCESS.c.id == process_id).values(cancel_requested=True)
        )
        _add_events(connection, [(process_id, state, "api", f"cancel requested by {by}")], now)

    def _reread(self, connection: Connection, process_id: str) -> Process:
        query = select(*_SHOWN).where(_PROCESS.c.id == process_id)
        return _process(connection.execute(query).mappings().one())

    def claim(
        self, phase: Phase, *, runner: str, limit: int, now: datetime, lease: timedelta
    ) -> list[Claimed]:
        """Take up to `limit` Processes in a phase that nobody holds, oldest first."""
        free = (
            select(_PROCESS.c.id)
            .where(_PROCESS.c.phase == phase)
            .where(or_(_PROCESS.c.claimed_until.is_(None), _PROCESS.c.claimed_until < now))
            .where(or_(_PROCESS.c.not_before.is_(None), _PROCESS.c.not_before <= now))
            .order_by(_PROCESS.c.created_at, _PROCESS.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            ids = [row[0] for row in connection.execute(free)]
        if not ids:
            return []
        take = (
            update(_PROCESS)
            .where(_PROCESS.c.id.in_(ids), _PROCESS.c.phase == phase)
            .where(or_(_PROCESS.c.claimed_until.is_(None), _PROCESS.c.claimed_until < now))
            .values(claimed_by=runner, claimed_until=now + lease)
            .returning(*(_PROCESS.c[name] for name in _CLAIMED_FIELDS))
        )
        with self._database.write() as connection:
            rows = connection.execute(take).mappings().all()
        claimed = sorted((_claimed(row) for row in rows), key=lambda entry: entry.id)
        self._held = self._held | {entry.id for entry in claimed}
        return claimed

    def renew(self, runner: str, *, now: datetime, lease: timedelta) -> None:
        """Prolong what a Runner holds and is working on. What it has lost stays lost."""
        held = list(self._held)
        if not held:
            return
        query = (
            update(_PROCESS)
            .where(_PROCESS.c.claimed_by == runner, _PROCESS.c.claimed_until > now)
            .where(_PROCESS.c.id.in_(held))
            .values(claimed_until=now + lease)
        )
        with self._database.write() as connection:
            connection.execute(query)

    def let_go(self, process_ids: Iterable[str]) -> None:
        """Nobody works on these any more: a claim that is left over ends with its lease."""
        self._held = self._held - frozenset(process_ids)

    def holds(self, process_id: str, *, runner: str, now: datetime) -> bool:
        """Whether a Runner's claim still stands."""
        query = select(_PROCESS.c.id).where(
            _PROCESS.c.id == process_id,
            _PROCESS.c.claimed_by == runner,
            _PROCESS.c.claimed_until > now,
        )
        with self._database.read() as connection:
            return connection.execute(query).one_or_none() is not None

    def apply(
        self, changes: Sequence[Change], *, runner: str | None, now: datetime
    ) -> frozenset[str]:
        """Write moves, in one transaction where nobody interferes; return the ids of those lost.

        A move is lost, and nothing of it written, when its Process is no longer as the change says
        or, with a `runner`, no longer held by it. A hold ends with the move unless `values`
        prolongs it.
        """
        if not changes:
            return frozenset()
        try:
            with self._database.write() as connection:
                _apply(connection, changes, runner=runner, now=now)
        except _Moved:
            if len(changes) == 1:
                return frozenset({changes[0].process_id})
            lost = (self.apply([change], runner=runner, now=now) for change in changes)
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
        query = update(_PROCESS).where(_PROCESS.c.id.in_(list(process_ids))).values(**values)
        if runner is not None:
            query = query.where(_PROCESS.c.claimed_by == runner)
        with self._database.write() as connection:
            connection.execute(query)

    def observed(self) -> list[Open]:
        """All Processes whose job has an id and has not been seen to end."""
        query = select(*(_PROCESS.c[name] for name in _OPEN_FIELDS)).where(
            _PROCESS.c.phase == Phase.SUBMITTED
        )
        with self._database.read() as connection:
            return [Open(**row) for row in connection.execute(query).mappings()]

    def ended(self, process_ids: Sequence[str]) -> list[str]:
        """Those among these ids for which nothing is left to be done."""
        query = select(_PROCESS.c.id).where(_PROCESS.c.phase == Phase.DONE)
        query = query.where(_PROCESS.c.id.in_(process_ids))
        with self._database.read() as connection:
            return [row[0] for row in connection.execute(query)]


_CLAIMED_FIELDS = tuple(Claimed.__dataclass_fields__)
_OPEN_FIELDS = tuple(Open.__dataclass_fields__)


def _process(row: Mapping[Any, Any]) -> Process:
    values = dict(row)
    values["spec"] = ProcessSpec.model_validate(row["spec"], strict=False)
    values["outputs"] = tuple(OutputFile(**entry) for entry in row["outputs"])
    values["outputs_ignored"] = tuple(row["outputs_ignored"])
    values["inputs"] = tuple(StagedFile(**entry) for entry in row["inputs"])
    if row["traced"] is not None:
        values["traced"] = TraceSummary.model_validate(row["traced"], strict=False)
    return Process(**values)


def _claimed(row: RowMapping) -> Claimed:
    values = dict(row)
    values["spec"] = ProcessSpec.model_validate(row["spec"], strict=False)
    return Claimed(**values)


def _apply(
    connection: Connection,
    changes: Sequence[Change],
    *,
    runner: str | None,
    now: datetime,
) -> None:
    for change in changes:
        if change.before is not change.after and not is_legal(change.before, change.after):
            raise IllegalTransition(f"{change.process_id}: {change.before} to {change.after}")
    ordered = sorted(changes, key=lambda change: sorted(change.values))
    for names, group in groupby(ordered, key=lambda change: tuple(sorted(change.values))):
        batch = list(group)
        columns: dict[str, Any] = {name: bindparam(f"v_{name}") for name in names}
        query = update(_PROCESS).where(
            _PROCESS.c.id == bindparam("b_id"),
            _PROCESS.c.state == bindparam("b_before"),
            _PROCESS.c.phase == bindparam("b_phase"),
        )
        free = {}
        if runner is not None:
            query = query.where(_PROCESS.c.claimed_by == runner)
            if "claimed_until" not in names:
                free = {"claimed_by": None, "claimed_until": None}
        query = query.values(
            state=bindparam("v_state"), phase=bindparam("v_phase"), **columns, **free
        )
        result = connection.execute(
            query.execution_options(synchronize_session=False),
            [
                {
                    "b_id": change.process_id,
                    "b_before": change.before,
                    "b_phase": change.before_phase,
                    "v_state": change.after,
                    "v_phase": change.phase,
                    **{f"v_{name}": value for name, value in change.values.items()},
                }
                for change in batch
            ],
        )
        if result.rowcount != len(batch):
            raise _Moved
    _add_events(
        connection,
        (
            (entry.process_id, entry.after, entry.source, entry.detail)
            for entry in changes
            if entry.detail
        ),
        now,
    )


def _add_events(
    connection: Connection,
    events: Iterable[tuple[str, ProcessState, str, str]],
    now: datetime,
) -> None:
    keys = ("process_id", "state", "source", "detail")
    rows = [{**dict(zip(keys, event, strict=True)), "at": now} for event in events]
    if rows:
        connection.execute(insert(_EVENT), rows)
