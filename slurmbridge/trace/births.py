"""Which new number is the child of which call.

In the container's process namespace a call gives another number than the one strace knows the
child by, and the child's first line may come before the call's result. So a number that was not
seen before is matched with the calls that still lack a child. Calls of one kind (same process, same
working directory, same sort of child) are as good as one another. Where several kinds are left, the
number waits for what tells more. Certain is only what can be no other: of two calls at once nobody
knows whose child got the lower number.
"""

import re
import sys
from collections import deque
from typing import NamedTuple

from slurmbridge.trace.lines import error_of, number_of
from slurmbridge.trace.living import FORKS, Birth, Kind, Order, Seen, Thread

__all__ = ["FORKS", "Births", "Origin", "birth"]

_FLAG = re.compile(rb"CLONE_[A-Z_]+")
_RESULT = re.compile(rb"\) += (.+)$")
# More calls without a child than threads can live: the trace is damaged.
_MOST = 65_536
# Of one kind, these are known one by one.
_MOST_ALIKE = 256
# Numbers go up, and begin anew at the end: nearer ones than this were given in their order.
_NEAR = 8192


def birth(name: bytes, text: bytes, caller: Thread, line: int) -> Birth:
    """The birth that a call announces; `text` holds at least its flags."""
    flags = _FLAG.findall(text) if name.startswith(b"clone") else ()
    thread = b"CLONE_THREAD" in flags
    sibling = b"CLONE_PARENT" in flags and not thread
    shares = b"CLONE_FS" in flags
    apart = b"CLONE_NEWPID" in flags
    kind = Kind(caller.process, caller.folder, thread, shares, sibling, apart, not caller.certain)
    return Birth(kind, line, caller.process.counts_as_strace is True)


class Origin(NamedTuple):
    """Where a number comes from; `birth` where it is known which of its kind."""

    kind: Kind | None
    certain: bool = False
    birth: Birth | None = None


class _Group:
    """Pools of which children were taken without knowing whose; `left` more are to be seen."""

    __slots__ = ("left", "pools")

    def __init__(self, pool: "_Pool") -> None:
        self.pools = {pool: None}
        self.left = 0


class _Pool:
    """The calls of one kind, of which `left` at most have a child that was not seen."""

    __slots__ = ("births", "earliest", "group", "kind", "latest", "left", "newest", "pending")

    def __init__(self, kind: Kind, begun: int) -> None:
        self.kind = kind
        self.births: dict[int, Birth] = {}
        self.left = 0
        self.pending = 0
        # The lines in which the first and the last of them began, and in which the last returned.
        self.earliest = self.newest = begun
        self.latest = 0
        self.group = _Group(self)


class _Own:
    """Calls of one kind that give strace's own numbers, and have not returned."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.births: dict[int, Birth] = {}
        # Numbers that were taken for theirs.
        self.taken: set[int] = set()


class _Found:
    """The kinds that were found for the numbers that wait, until something may change them.

    What a call or a number does to others depends on what stands before it: most do nothing to
    those that were seen earlier. In doubt, all are sought anew.
    """

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[Seen, list[_Pool | _Own]]] = {}
        # The highest of the numbers, and the last line in which one was seen first.
        self._highest = self._line = 0
        # The last line in which a call began whose number is lower than one of these.
        self._below = 0
        # A kind was left out for what is known of other numbers.
        self._left_out = False
        # How often all were given up.
        self.times = 0

    def get(self, seen: Seen) -> list[_Pool | _Own] | None:
        """What was found for it, if that still holds."""
        known = self._kinds.get(seen.pid)
        return known[1] if known is not None and known[0] is seen else None

    def keep(self, seen: Seen, kinds: list[_Pool | _Own], below: int, left_out: bool) -> None:
        """What was found for one more number."""
        self._kinds[seen.pid] = seen, kinds
        self._highest = max(self._highest, seen.pid)
        self._line = max(self._line, seen.line)
        self._below = max(self._below, below)
        self._left_out = self._left_out or left_out

    def drop(self, pid: int) -> None:
        """The number waits no longer."""
        if self._kinds.pop(pid, None) is not None and not self._kinds:
            self.clear()

    def clear(self) -> None:
        """Anything may have changed."""
        self.times += 1
        self._kinds.clear()
        self._highest = self._line = self._below = 0
        self._left_out = False

    def kind(self, earliest: int, others: int) -> None:
        """There is a kind more or less, beside so many others."""
        if earliest < self._line or others <= 1:
            self.clear()

    def call(self, line: int) -> None:
        """One of a kind has begun or ended."""
        if self._left_out or line < self._below:
            self.clear()

    def order(self, number: int, line: int) -> None:
        """More is known of a number; its call returned in that line, if it has."""
        if self._left_out or number < self._highest or 0 < line < self._line:
            self.clear()


class Births:
    """The calls that still lack a child."""

    def __init__(self) -> None:
        self._pools: dict[Kind, _Pool] = {}
        self._own: dict[Kind, _Own] = {}
        # By the number that the call gave, where it is strace's own.
        self._given: dict[int, Birth] = {}
        self._size = 0
        # Calls were forgotten: nothing is certain any more.
        self._lost = False
        # Children of which it is known which call gave them, in the order of the lines.
        self._orders: deque[Order] = deque(maxlen=16)
        self._last = 0
        self._wrapped = 0
        self._matched: dict[int, Origin] = {}
        self._found = _Found()

    def __len__(self) -> int:
        return self._size + len(self._given) + sum(len(own.births) for own in self._own.values())

    @property
    def changes(self) -> int:
        """Goes up when those of whom `several` told something have to be asked about anew."""
        return self._found.times

    def add(self, birth: Birth) -> None:
        """A call has begun."""
        kind = birth.kind
        if birth.own:
            own = self._own.get(kind)
            if own is None:
                own = self._own[kind] = _Own(kind)
            own.births[id(birth)] = birth
            self._found.clear()
            return
        if self._size >= _MOST:
            self._lost = True
            self._dissolve(next(iter(self._pools.values())))
        pool = self._pools.get(kind)
        if pool is None:
            self._found.kind(birth.begun, len(self._pools))
            pool = self._pools[kind] = _Pool(kind, birth.begun)
        self._found.call(birth.begun)
        pool.births[id(birth)] = birth
        pool.newest = birth.begun
        pool.pending += 1
        pool.left += 1
        pool.group.left += 1
        self._size += 1
        if len(pool.births) > _MOST_ALIKE:
            del pool.births[next(iter(pool.births))]

    def returned(self, birth: Birth, text: bytes, line: int) -> None:
        """A call has ended: it gave a number, or failed and has no child."""
        found = _RESULT.search(text)
        failed = found is None or bool(error_of(found[1]))
        number = None if found is None or failed else number_of(found[1])
        birth.given, birth.line = number, line
        if birth.order is not None:
            birth.order.line = line
            self._found.order(birth.order.number, line)
        if birth.own:
            self._returned_own(birth, number)
            return
        if birth.sole and birth.kind.parent.counts_as_strace is None:
            birth.kind.parent.counts_as_strace = number == birth.child
        pool = self._pools.get(birth.kind)
        if pool is None or id(birth) not in pool.births:
            return
        pool.pending -= 1
        pool.latest = line
        self._found.call(line)
        if failed:
            self._remove(birth, pool)
        elif number is not None and birth.kind.parent.counts_as_strace is None:
            self._give(number, birth)

    def _returned_own(self, birth: Birth, number: int | None) -> None:
        own = self._own.get(birth.kind)
        if own is None or own.births.pop(id(birth), None) is None:
            return
        self._found.clear()
        if not own.births:
            del self._own[birth.kind]
        if number is None:
            return
        for other in (own, *self._own.values()):
            if number in other.taken:
                other.taken.discard(number)
                return
        # Also where another number was taken for this one's.
        if len(self._given) >= _MOST:
            del self._given[next(iter(self._given))]
        self._give(number, birth)

    def _give(self, number: int, birth: Birth) -> None:
        self._given[number] = birth
        self._found.clear()

    def abandoned(self, birth: Birth, line: int) -> None:
        """The caller has ended before the call did: nobody knows whether there is a child."""
        if birth.sole:
            return
        self._found.clear()
        pool, own = self._pools.get(birth.kind), self._own.get(birth.kind)
        if birth.own and own is not None and own.births.pop(id(birth), None) is not None:
            full = len(own.taken) > len(own.births)
            if not own.births:
                del self._own[birth.kind]
            if full:
                return
        elif not birth.own and pool is not None and id(birth) in pool.births:
            pool.pending -= 1
            self._remove(birth, pool)
        else:
            return
        birth.kind = birth.kind._replace(doubtful=True)
        birth.own, birth.line = False, line
        self.add(birth)
        pool = self._pools[birth.kind]
        pool.pending -= 1
        pool.latest = line

    def several(self, seen: Seen) -> bool:
        """Whether it may belong to several kinds of calls, so that waiting may tell more of it."""
        # Nearly always there is one kind.
        if len(self._pools) + len(self._own) < 2:
            return False
        if seen.pid in self._matched or seen.pid in self._given:
            return False
        return len(self._feasible(seen)) > 1

    def take(self, seen: Seen, *, certain: bool = True) -> Origin:
        """The call whose child a number is."""
        pid = seen.pid
        if pid + _NEAR < self._last:
            # The numbers have begun anew, or an old thread says something at last.
            self._wrapped = seen.line
            self._orders.clear()
            self._found.clear()
        self._last = pid
        if (matched := self._matched.pop(pid, None)) is not None:
            return matched
        if (exact := self._given.pop(pid, None)) is not None:
            self._found.drop(pid)
            if (pool := self._pools.get(exact.kind)) and id(exact) in pool.births:
                self._remove(exact, pool)
            return self._identified(exact, pid)
        feasible = self._found.get(seen)
        if feasible is None:
            feasible, _, _ = self._search(seen)
        self._found.drop(pid)
        if not feasible:
            return Origin(None)
        if len(feasible) > 1 and any(isinstance(kind, _Own) for kind in feasible):
            self._lost = True
        certain = certain and len(feasible) == 1 and not self._lost
        chosen = feasible[0] if len(feasible) == 1 else _guess(feasible)
        certain = certain and not chosen.kind.doubtful
        if isinstance(chosen, _Own):
            chosen.taken.add(pid)
            self._found.clear()
            return Origin(chosen.kind, certain)
        if certain and chosen.left == chosen.group.left == len(chosen.births) == 1:
            (birth,) = chosen.births.values()
            self._remove(birth, chosen)
            return self._identified(birth, pid)
        self._take_any([pool for pool in feasible if isinstance(pool, _Pool)])
        return Origin(chosen.kind, certain)

    def _take_any(self, pools: list[_Pool]) -> None:
        """A child of one of these was seen; which one it is of stays unknown."""
        group = pools[0].group
        for pool in pools[1:]:
            if pool.group is not group:
                group.left += pool.group.left
                for other in pool.group.pools:
                    other.group = group
                    group.pools[other] = None
        if len(pools) == 1:
            pools[0].left -= 1
        group.left -= 1
        self._size -= 1
        self._settle(pools[0])

    def _identified(self, birth: Birth, pid: int) -> Origin:
        birth.child, birth.sole = pid, True
        parent = birth.kind.parent
        if birth.given is not None and parent.counts_as_strace is None:
            parent.counts_as_strace = birth.given == pid
        birth.order = Order(pid, birth.begun, birth.line)
        self._orders.append(birth.order)
        self._found.order(pid, birth.line)
        return Origin(birth.kind, True, birth)

    def _remove(self, birth: Birth, pool: _Pool) -> None:
        pool.births.pop(id(birth), None)
        pool.left -= 1
        pool.group.left -= 1
        self._size -= 1
        self._settle(pool)

    def _settle(self, pool: _Pool) -> None:
        """Forget those of whom no child is to come."""
        group = pool.group
        if group.left <= 0:
            self._size -= group.left
            for other in list(group.pools):
                self._forget(other)
        elif pool.left <= 0:
            self._forget(pool)

    def _dissolve(self, pool: _Pool) -> None:
        self._size -= pool.group.left
        for other in list(pool.group.pools):
            self._forget(other)

    def _forget(self, pool: _Pool) -> None:
        pool.group.pools.pop(pool, None)
        if self._pools.get(pool.kind) is pool:
            del self._pools[pool.kind]
            self._found.kind(pool.earliest, len(self._pools))

    def _feasible(self, seen: Seen) -> list["_Pool | _Own"]:
        """The kinds of calls that the number may belong to; kept until it is let in."""
        known = self._found.get(seen)
        if known is None:
            known, below, left_out = self._search(seen)
            self._found.keep(seen, known, below, left_out)
        return known

    def _search(self, seen: Seen) -> tuple[list["_Pool | _Own"], int, bool]:
        """These kinds; the last line in which a lower number's call began; are others left out.

        A call that returned before another began got the lower number in every namespace.
        (alloc_pid of the kernel gives the number of each namespace under a lock
        of its own: of calls at the same time one may be first here, the other there.)
        """
        found: list[_Pool | _Own] = [
            own
            for own in self._own.values()
            if len(own.births) > len(own.taken)
            and seen.fits(own.kind)
            and next(iter(own.births.values())).begun < seen.line
        ]
        below, above, left_out = 0, sys.maxsize, False
        if len(self._pools) + len(found) > 1:
            below, above = self._between(seen.pid)
        for pool in self._pools.values():
            if pool.earliest >= seen.line or not seen.fits(pool.kind):
                continue
            before = not pool.pending and pool.latest < below
            if pool.earliest <= self._wrapped or not (before or pool.earliest > above):
                found.append(pool)
            else:
                left_out = True
        return found, below, left_out

    def _between(self, pid: int) -> tuple[int, int]:
        """The last line in which a lower number's call began, the first of a higher one's end."""
        below, above = 0, sys.maxsize
        for order in self._orders:
            apart = pid - order.number
            if apart > 0:
                if apart < _NEAR and order.begun > below:
                    below = order.begun
            elif -_NEAR < apart < 0 and 0 < order.line < above:
                above = order.line
        return below, above

    def match(self, waiting: list[Seen]) -> bool:
        """Where as many wait as calls are left, each is somebody's: in their order."""
        pools: dict[_Pool, None] = {}
        left = len(waiting)
        for seen in waiting:
            for kind in self._feasible(seen):
                if kind in pools:
                    continue
                left -= len(kind.births)
                if left < 0 or not isinstance(kind, _Pool) or not _plain(kind):
                    return False
                pools[kind] = None
        if left or not pools:
            return False
        numbers = sorted(waiting, key=lambda seen: seen.pid)
        births = [birth for pool in pools for birth in pool.births.values()]
        births.sort(key=lambda birth: birth.given or 0)
        ordered = not self._lost and numbers[-1].pid - numbers[0].pid < _NEAR
        ordered = ordered and min(birth.begun for birth in births) > self._wrapped
        ordered = ordered and _agrees(births, numbers)
        self._found.clear()
        for birth in births:
            self._remove(birth, self._pools[birth.kind])
        apart = _apart(births)
        for seen, birth, (kinds, size) in zip(numbers, births, apart, strict=True):
            certain = ordered and kinds == 1
            if certain and size == 1:
                self._matched[seen.pid] = self._identified(birth, seen.pid)
            else:
                self._matched[seen.pid] = Origin(birth.kind, certain)
        return True


def _guess(feasible: list["_Pool | _Own"]) -> "_Pool | _Own":
    """In doubt it is the program's: nothing of it is ever cut away.

    And a process, whose beginning is told with the doubt. Most children speak soon.
    """

    def likely(kind: _Pool | _Own) -> tuple[bool, bool, bool, int]:
        newest = kind.newest if isinstance(kind, _Pool) else 0
        return kind.kind.parent.counts, not kind.kind.doubtful, not kind.kind.thread, newest

    return max(feasible, key=likely)


def _plain(pool: _Pool) -> bool:
    """Whether each call of it has a child that was not seen."""
    alone = len(pool.group.pools) == 1
    complete = alone and len(pool.births) == pool.left == pool.group.left
    return complete and not pool.pending and not pool.kind.doubtful


def _agrees(births: list[Birth], numbers: list[Seen]) -> bool:
    """Whether the order of the numbers inside is possible."""
    latest = 0
    for birth, seen in zip(births, numbers, strict=True):
        latest = max(latest, birth.begun)
        if birth.line < latest or birth.begun >= seen.line or not seen.fits(birth.kind):
            return False
    return True


def _apart(births: list[Birth]) -> list[tuple[int, int]]:
    """Of each call, how many kinds and how many calls there were at that time."""
    ends: list[tuple[int, int]] = []
    order = sorted(range(len(births)), key=lambda index: births[index].begun)
    at_once: list[int] = []
    until = 0
    told: dict[int, tuple[int, int]] = {}
    for index in [*order, None]:
        if index is None or births[index].begun > until:
            kinds = len({births[other].kind for other in at_once})
            told |= dict.fromkeys(at_once, (kinds, len(at_once)))
            at_once = []
        if index is not None:
            at_once.append(index)
            until = max(until, births[index].line)
    ends.extend(told[index] for index in range(len(births)))
    return ends
