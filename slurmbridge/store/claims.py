"""Which Processes a Runner may take, as SQL and a pure choice."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, not_, or_, select

from slurmbridge.lifecycle import Phase
from slurmbridge.store.moves import PROCESS, is_free

# Nothing waits longer for its next turn. A moment that is farther off was written by a clock that
# had been set forward, and means nothing.
LONGEST_WAIT = timedelta(minutes=15)
_BUSY = (Phase.SUBMITTING, Phase.SUBMITTED, Phase.COLLECTING)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many Processes may be in progress on a cluster at a time; None: any number.

    In progress is what a Runner has taken and what has not been collected yet.
    """

    cluster: int | None = None
    account: int | None = None
    partition: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A Process that could be taken."""

    id: str
    account: str
    partition: str


@dataclass(frozen=True, slots=True)
class InProgress:
    """What is counted."""

    total: int
    accounts: Mapping[str, int]
    partitions: Mapping[str, int]


def admit(
    waiting: Iterable[Waiting], counted: InProgress, limits: Limits, *, most: int
) -> list[str]:
    """Of those that wait, in order, the ids of those for which there is room. Pure."""
    total = counted.total
    accounts, partitions = Counter(counted.accounts), Counter(counted.partitions)
    taken: list[str] = []
    for entry in waiting:
        if len(taken) == most or _full(total, limits.cluster):
            break
        if _full(accounts[entry.account], limits.account):
            continue
        if _full(partitions[entry.partition], limits.partition):
            continue
        total += 1
        accounts[entry.account] += 1
        partitions[entry.partition] += 1
        taken.append(entry.id)
    return taken


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def due(cluster: str, phase: Phase, now: datetime) -> ColumnElement[bool]:
    """What nobody holds and whose time has come."""
    soon: ColumnElement[bool] = or_(
        PROCESS.c.not_before.is_(None),
        PROCESS.c.not_before <= now,
        PROCESS.c.not_before > now + LONGEST_WAIT,
    )
    return and_(PROCESS.c.cluster == cluster, PROCESS.c.phase == phase, is_free(), soon)


def any_due(connection: Connection, where: ColumnElement[bool]) -> bool:
    """Whether there is anything to take."""
    return connection.execute(select(PROCESS.c.id).where(where).limit(1)).one_or_none() is not None


def candidates(connection: Connection, where: ColumnElement[bool], *, most: int) -> list[str]:
    """The oldest of those that are due and that nobody takes at this moment: they are locked.

    Without the lock, an UPDATE on PostgreSQL that had to wait for a row would look at it anew, but
    with the roster of its own beginning: who entered since would be taken for dead.
    """
    query = select(PROCESS.c.id).where(where).order_by(PROCESS.c.created_at, PROCESS.c.id)
    query = query.limit(most).with_for_update(skip_locked=True)
    return [row[0] for row in connection.execute(query)]


def admitted(
    connection: Connection, cluster: str, where: ColumnElement[bool], limits: Limits, *, most: int
) -> list[str]:
    """The oldest of those that are due and for which there is room."""
    counted = in_progress(connection, cluster)
    query = select(PROCESS.c.id, PROCESS.c.account, PROCESS.c.partition).where(where)
    # A project whose share is used up must not hide the others behind what it has waiting.
    for column, counts, limit in (
        (PROCESS.c.account, counted.accounts, limits.account),
        (PROCESS.c.partition, counted.partitions, limits.partition),
    ):
        full = [name for name, count in counts.items() if _full(count, limit)]
        if full:
            query = query.where(column.not_in(full))
    query = query.order_by(PROCESS.c.created_at, PROCESS.c.id).limit(10 * most)
    query = query.with_for_update(skip_locked=True)
    waiting = [Waiting(*row) for row in connection.execute(query)]
    return admit(waiting, counted, limits, most=most)


def in_progress(connection: Connection, cluster: str) -> InProgress:
    """Count what is in progress on a cluster: always anew, so that no slot is ever lost."""
    busy = or_(PROCESS.c.phase.in_(_BUSY), (PROCESS.c.phase == Phase.ACCEPTED) & not_(is_free()))
    query = (
        select(PROCESS.c.account, PROCESS.c.partition, func.count())
        .where(PROCESS.c.cluster == cluster, busy)
        .group_by(PROCESS.c.account, PROCESS.c.partition)
    )
    accounts: Counter[str] = Counter()
    partitions: Counter[str] = Counter()
    rows: Sequence[tuple[str, str, int]] = [tuple(row) for row in connection.execute(query)]
    for account, partition, count in rows:
        accounts[account] += count
        partitions[partition] += count
    return InProgress(sum(accounts.values()), accounts, partitions)
