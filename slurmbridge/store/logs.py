"""What programs printed, in pieces as Runners read them."""

from collections.abc import Sequence

from sqlalchemy import func, select

from slurmbridge.store.database import Database
from slurmbridge.store.tables import LogChunkRow

_LOG = LogChunkRow.__table__  # type: ignore[attr-defined]


class LogStore:
    """The queries on logs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sizes(self, process_ids: Sequence[str]) -> dict[tuple[str, str], int]:
        """Bytes kept for each (Process, stream)."""
        end = func.max(_LOG.c.offset + func.length(_LOG.c.data))
        query = (
            select(_LOG.c.process_id, _LOG.c.stream, end)
            .where(_LOG.c.process_id.in_(process_ids))
            .group_by(_LOG.c.process_id, _LOG.c.stream)
        )
        with self._database.read() as connection:
            return {(row[0], row[1]): int(row[2]) for row in connection.execute(query)}

    def add(self, chunks: Sequence[tuple[str, str, int, bytes]]) -> None:
        """Keep (Process, stream, offset, data) pieces."""
        if chunks:
            keys = ("process_id", "stream", "offset", "data")
            with self._database.write() as connection:
                # Another Runner may have read the same piece; the first one counts.
                connection.execute(
                    self._database.insert(_LOG).on_conflict_do_nothing(),
                    [dict(zip(keys, chunk, strict=True)) for chunk in chunks],
                )

    def read(self, process_id: str, stream: str, *, offset: int, limit: int) -> bytes:
        """What a program printed, from a byte offset on."""
        query = (
            select(_LOG.c.offset, _LOG.c.data)
            .where(_LOG.c.process_id == process_id, _LOG.c.stream == stream)
            .where(_LOG.c.offset + func.length(_LOG.c.data) > offset)
            .order_by(_LOG.c.offset)
        )
        found = b""
        with self._database.read() as connection:
            for start, data in connection.execute(query):
                found += data[max(0, offset - start) :]
                if len(found) >= limit:
                    break
        return found[:limit]
