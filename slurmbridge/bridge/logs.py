"""What programs print, brought from their contexts into the database while they run."""

from collections.abc import Sequence
from pathlib import Path

from slurmbridge.context.folder import LOG_FILES, ContextFolder
from slurmbridge.store import ProcessStore

_CUT = b"\n[slurmbridge: the log is longer; the whole is with the outputs]\n"


class LogKeeper:
    """Copies what is new, up to a limit for each stream."""

    def __init__(self, processes: ProcessStore, contexts: Path, *, limit_bytes: int) -> None:
        self._processes = processes
        self._contexts = contexts
        self._limit = limit_bytes

    def keep(self, process_ids: Sequence[str]) -> None:
        """Bring the logs of these Processes up to date."""
        if not process_ids:
            return
        sizes = self._processes.log_sizes(process_ids)
        chunks = []
        for process_id in process_ids:
            folder = ContextFolder(self._contexts, process_id)
            for stream in LOG_FILES:
                offset = sizes.get((process_id, stream), 0)
                data = self._read(folder, stream, offset)
                if data:
                    chunks.append((process_id, stream, offset, data))
        self._processes.add_log(chunks)

    def _read(self, folder: ContextFolder, stream: str, offset: int) -> bytes:
        if offset > self._limit:
            return b""
        data = folder.read_log(stream, offset, self._limit - offset + 1)
        if offset + len(data) <= self._limit:
            return data
        return data[: self._limit - offset] + _CUT
