"""What programs print, brought from their contexts into the database while they run."""

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence

from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.left import LOG_FILES
from slurmbridge.store import LogStore

PIECE_BYTES = 64 * 1024
# What may be spent on logs between two looks at the queue: another host's file costs a round trip.
_SECONDS = 1.0
_CUT = b"\n[slurmbridge: the log is longer; the whole is with the outputs]\n"


class LogKeeper:
    """Copies what is new, up to a limit for each stream."""

    def __init__(
        self,
        logs: LogStore,
        contexts: Contexts,
        *,
        limit_bytes: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._logs = logs
        self._contexts = contexts
        self._limit = limit_bytes
        self._monotonic = monotonic
        self._last = ""

    def keep(self, process_ids: Sequence[str]) -> None:
        """Bring the logs of these Processes on by a piece each, as far as a second goes. The next
        call begins with those that are left.
        """
        ids = sorted(process_ids)
        first = bisect(ids, self._last)
        ids = ids[first:] + ids[:first]
        sizes = self._logs.sizes(ids) if ids else {}
        deadline = self._monotonic() + _SECONDS
        for process_id in ids:
            self._keep(process_id, sizes)
            self._last = process_id
            if self._monotonic() >= deadline:
                break

    def finish(self, process_id: str) -> None:
        """Bring the logs of an ended Process to their end."""
        while self._keep(process_id, self._logs.sizes([process_id])):
            pass

    def _keep(self, process_id: str, sizes: Mapping[tuple[str, str], int]) -> bool:
        folder = self._contexts.of(process_id)
        chunks = []
        for stream in LOG_FILES:
            offset = sizes.get((process_id, stream), 0)
            if data := self._read(folder, stream, offset):
                chunks.append((process_id, stream, offset, data))
        self._logs.add(chunks)
        return bool(chunks)

    def _read(self, folder: ContextFolder, stream: str, offset: int) -> bytes:
        if offset > self._limit:
            return b""
        data = folder.read_log(stream, offset, min(PIECE_BYTES, self._limit - offset + 1))
        if offset + len(data) <= self._limit:
            return data
        return data[: self._limit - offset] + _CUT
