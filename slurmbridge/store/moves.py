"""Moves of Processes from state to state, as SQL. A state changes here or nowhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, insert, or_, select, update

from slurmbridge.errors import IllegalTransition
from slurmbridge.lifecycle import Phase, ProcessState, is_legal
from slurmbridge.spec import ProcessSpec
from slurmbridge.store.tables import ProcessEventRow, ProcessRow, RunnerRow

PROCESS = ProcessRow.__table__  # type: ignore[attr-defined]
EVENT = ProcessEventRow.__table__  # type: ignore[attr-defined]
RUNNER = RunnerRow.__table__  # type: ignore[attr-defined]


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
    # Of outputs that were reviewed: where they wait, and what must lie there.
    review_location: str | None = None
    manifest_sha256: str | None = None


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
    reason: str | None = None
    restarts: int = 0
    expected_start: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One move of one Process, with the evidence. `values` are further columns.

    Without a `detail` no event is written. A Runner that makes it holds the Process no longer,
    unless it says `keep`.
    """

    process_id: str
    before: ProcessState
    after: ProcessState
    before_phase: Phase
    phase: Phase
    source: str
    detail: str
    values: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False


def again(claimed: Claimed, change: Change) -> Change:
    """`change` without its event, when it only says once more what the last one said."""
    same = claimed.reason == change.values.get("reason") and claimed.state is change.after
    return replace(change, detail="") if same else change


class Wanted(StrEnum):
    """Whether a Runner shall go on with what it does for a Process."""

    YES = "yes"
    # Somebody has asked for its end.
    NO = "no"
    # The Runner does not hold it any more.
    ELSEWHERE = "elsewhere"


class Moved(Exception):
    """Another has moved a Process; the transaction is undone."""


def is_free() -> ColumnElement[bool]:
    """Nobody holds a Process. Whoever is not on the roster any more has lost what it held."""
    alive = select(RUNNER.c.id)
    return or_(PROCESS.c.claimed_by.is_(None), PROCESS.c.claimed_by.not_in(alive))


def is_held_by(runner: str) -> ColumnElement[bool]:
    """A Runner holds a Process, and is on the roster."""
    held: ColumnElement[bool] = (PROCESS.c.claimed_by == runner) & is_on_roster(runner)
    return held


def is_on_roster(runner: str) -> ColumnElement[bool]:
    """A Runner has not been taken for dead."""
    return select(RUNNER.c.id).where(RUNNER.c.id == runner).exists()


def apply(
    connection: Connection,
    changes: Sequence[Change],
    *,
    runner: str | None,
    now: datetime,
    observer: str | None = None,
) -> None:
    """Make all these moves.

    Raises:
        Moved: a Process is not as a change says, or not held by `runner`; or the Runner `observer`
            is not on the roster any more.
        IllegalTransition
    """
    for change in changes:
        if change.before is not change.after and not is_legal(change.before, change.after):
            raise IllegalTransition(f"{change.process_id}: {change.before} to {change.after}")
    # Always in the same order, so that no two wait for each other.
    ordered = sorted(changes, key=lambda change: (_kind(change), change.process_id))
    for (keep, names), group in groupby(ordered, key=_kind):
        batch = list(group)
        columns: dict[str, Any] = {name: bindparam(f"v_{name}") for name in names}
        query = update(PROCESS).where(
            PROCESS.c.id == bindparam("b_id"),
            PROCESS.c.state == bindparam("b_before"),
            PROCESS.c.phase == bindparam("b_phase"),
        )
        if runner is not None:
            query = query.where(is_held_by(runner))
            columns |= {} if keep else {"claimed_by": None}
        if observer is not None:
            query = query.where(is_on_roster(observer))
        query = query.values(state=bindparam("v_state"), phase=bindparam("v_phase"), **columns)
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
            raise Moved
    add_events(
        connection,
        (
            (entry.process_id, entry.after, entry.source, entry.detail)
            for entry in changes
            if entry.detail
        ),
        now,
    )


def _kind(change: Change) -> tuple[bool, tuple[str, ...]]:
    return change.keep, tuple(sorted(change.values))


def add_events(
    connection: Connection,
    events: Iterable[tuple[str, ProcessState, str, str]],
    now: datetime,
) -> None:
    """Add (Process, state, source, detail)."""
    keys = ("process_id", "state", "source", "detail")
    rows = [{**dict(zip(keys, event, strict=True)), "at": now} for event in events]
    if rows:
        connection.execute(insert(EVENT), rows)
