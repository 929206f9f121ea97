"""Which new number is the child of which call.

In the container's process namespace a call gives another number than the one strace knows the
child by, and the child's first line may come before the call's result. So a number that was not
seen before is matched with the calls that still lack a child. Calls of one kind (same process, same
working directory, same sort of child) are as good as one another; where several kinds are left, the
order in which the kernel gives numbers decides, if it can.
"""

import re
from collections import deque

from slurmbridge.trace.lines import error_of, number_of
from slurmbridge.trace.living import Birth, Kind, Thread

FORKS = frozenset({b"fork", b"vfork", b"clone", b"clone3"})
_FLAG = re.compile(rb"CLONE_[A-Z]+")
_RESULT = re.compile(rb"\) += (.+)$")
# More calls without a child than threads can live: the trace is damaged.
_MOST = 65_536
# Numbers go up, and begin anew at the end: nearer ones than this were given in their order.
_NEAR = 8192


def birth(name: bytes, text: bytes, caller: Thread, line: int) -> Birth:
    """The birth that a call announces; `text` holds at least its flags."""
    flags = set(_FLAG.findall(text)) if name.startswith(b"clone") else set()
    thread = b"CLONE_THREAD" in flags
    sibling = b"CLONE_PARENT" in flags and not thread
    shares = b"CLONE_FS" in flags
    apart = b"CLONE_NEWPID" in flags
    return Birth(Kind(caller.process, caller.folder, thread, shares, sibling, apart), line)


class Births:
    """The calls that still lack a child; of each kind, the oldest first."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, dict[int, Birth]] = {}
        # By the number that the call gave, where it may be strace's own.
        self._given: dict[int, Birth] = {}
        self._size = 0
        # The launcher's calls that have not returned.
        self._launchers: set[int] = set()
        # In which line a call began, and the number that its child got.
        self._numbers: deque[tuple[int, int]] = deque(maxlen=128)
        # By the number that the call gave in a namespace; how far these numbers last were apart.
        self._given_inside: dict[int, Birth] = {}
        self._apart = 0

    def __len__(self) -> int:
        return self._size

    def add(self, birth: Birth) -> None:
        """A call has begun."""
        if self._size >= _MOST:
            oldest = next(iter(self._kinds.values()), None) or self._given
            self._remove(next(iter(oldest.values())))
        self._kinds.setdefault(birth.kind, {})[id(birth)] = birth
        self._size += 1
        if not birth.kind.parent.counts:
            self._launchers.add(id(birth))

    def returned(self, birth: Birth, text: bytes, line: int) -> None:
        """A call has ended: it gave a number, or failed and has no child."""
        found = _RESULT.search(text)
        if found is None or error_of(found[1]):
            if birth.child is None:
                self._remove(birth)
            return
        parent = birth.kind.parent
        self._launchers.discard(id(birth))
        birth.given, birth.line = number_of(found[1]), line
        if birth.child is not None:
            if birth.sole:
                parent.counts_as_strace = birth.given == birth.child
            return
        if birth.given is None:
            return
        if parent.counts_as_strace is False:
            self._given_inside[birth.given] = birth
        else:
            self._given[birth.given] = birth
            if parent.counts_as_strace:
                self._numbers.append((birth.begun, birth.given))

    def abandoned(self, birth: Birth) -> None:
        """The caller has ended before the call did: nobody knows whether there is a child."""
        if birth.child is None and birth.given is None:
            self._remove(birth)
            birth.kind = birth.kind._replace(doubtful=True)
            self.add(birth)

    def must_wait(self, pid: int) -> bool:
        """Whether one of the launcher's calls has to return before its parent is known."""
        if not self._launchers:
            return False
        candidates = self._candidates(pid)
        return (
            len(candidates) > 1
            and any(birth.given is None and not birth.kind.parent.counts for birth in candidates)
            and any(birth.kind.parent.counts for birth in candidates)
        )

    def take(self, pid: int) -> tuple[Birth | None, bool]:
        """The call whose child a new number is, and whether it can be no other."""
        candidates = self._candidates(pid)
        if not candidates:
            return None, False
        chosen = candidates[0] if len(candidates) == 1 else self._guess(pid, candidates)
        if chosen.given == pid - self._apart:
            self._numbers.append((chosen.begun, pid))
        certain = len(candidates) == 1 and not chosen.kind.doubtful
        chosen.child = pid
        chosen.sole = certain and len(self._kinds.get(chosen.kind, ())) <= 1
        self._remove(chosen)
        if chosen.sole:
            self._numbers.append((chosen.begun, pid))
            if chosen.given is not None:
                chosen.kind.parent.counts_as_strace = chosen.given == pid
                self._apart = pid - chosen.given
        return chosen, certain

    def _guess(self, pid: int, candidates: list[Birth]) -> Birth:
        """In doubt it is the program's: nothing of it is ever cut away."""
        guess = self._given_inside.get(pid - self._apart)
        if guess is not None and any(guess.kind == birth.kind for birth in candidates):
            return guess
        return next((birth for birth in candidates if birth.kind.parent.counts), candidates[0])

    def _remove(self, birth: Birth) -> None:
        self._launchers.discard(id(birth))
        births = self._kinds.get(birth.kind, {})
        if births.pop(id(birth), None) is not None:
            self._size -= 1
            if not births:
                del self._kinds[birth.kind]
        for by_number in (self._given, self._given_inside):
            if birth.given is not None and by_number.get(birth.given) is birth:
                del by_number[birth.given]

    def _candidates(self, pid: int) -> list[Birth]:
        """One call of each kind that the number may belong to."""
        exact = self._given.get(pid)
        if exact is not None and exact.kind.parent.counts_as_strace is not False:
            return [exact]
        likely: list[Birth] = []
        doubtful: list[Birth] = []
        for kind, births in self._kinds.items():
            first = next(iter(births.values()))
            if kind.parent.counts_as_strace:
                # One that has returned would have been given the number itself.
                pending = (birth for birth in births.values() if birth.given is None)
                first = next(pending, first)
                if first.given is not None:
                    continue
            (doubtful if kind.doubtful else likely).append(first)
        if len(likely) > 1:
            likely = [birth for birth in likely if not self._too_early(birth, pid)] or likely
        return likely or doubtful

    def _too_early(self, birth: Birth, pid: int) -> bool:
        """Whether a call that began later than all of this kind returned got a lower number."""
        last = next(reversed(self._kinds[birth.kind].values()))
        if last.given is None:
            return False
        for begun, number in reversed(self._numbers):
            if begun > last.line and 0 < pid - number < _NEAR:
                return True
        return False
