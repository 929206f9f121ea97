"""Decisions on outputs that wait."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update

from slurmbridge.lifecycle import Phase, ReviewState
from slurmbridge.store.database import Database
from slurmbridge.store.moves import PROCESS, add_events

_AFTER = {
    True: (ReviewState.RELEASING, Phase.RELEASING, "released"),
    False: (ReviewState.REJECTING, Phase.REJECTING, "rejected"),
}


class ReviewLedger:
    """Who decided what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def decide(
        self, process_id: str, *, release: bool, by: str, reason: str | None, now: datetime
    ) -> bool:
        """Write a decision down; False when none is waited for (any more)."""
        review, phase, word = _AFTER[release]
        decided = (
            update(PROCESS)
            .where(PROCESS.c.id == process_id, PROCESS.c.phase == Phase.DONE)
            .where(PROCESS.c.review == ReviewState.WAITING)
            .values(review=review, phase=phase, review_by=by, review_at=now, review_reason=reason)
            .values(not_before=None)
            .returning(PROCESS.c.state)
        )
        said = f"{word} by {by}" + (f": {reason}" if reason else "")
        with self._database.write() as connection:
            found = connection.execute(decided).one_or_none()
            if found is not None:
                add_events(connection, [(process_id, found[0], "api", said)], now)
        return found is not None

    def decided(self, process_ids: Sequence[str]) -> list[str]:
        """Of these, those for which nothing is left to be done."""
        ended = (ReviewState.RELEASED, ReviewState.REJECTED)
        query = select(PROCESS.c.id).where(PROCESS.c.review.in_(ended))
        found: list[str] = []
        with self._database.read() as connection:
            for start in range(0, len(process_ids), 500):
                some = process_ids[start : start + 500]
                rows = connection.execute(query.where(PROCESS.c.id.in_(some)))
                found += [row[0] for row in rows]
        return found
