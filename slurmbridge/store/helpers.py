"""What the seal rests on: the helpers that were built, and the keys that attest."""

from datetime import datetime

from sqlalchemy import insert, select

from slurmbridge.errors import HelpersMissing
from slurmbridge.model import Helpers, PublicKey
from slurmbridge.store.database import Database
from slurmbridge.store.tables import HelperRow, SigningKeyRow

_KEY = SigningKeyRow.__table__  # type: ignore[attr-defined]
_HELPER = HelperRow.__table__  # type: ignore[attr-defined]


class HelperStore:
    """Recorded helpers. Of one state of their source, the latest are the ones that are used.

    Those of another version of slurmbridge are not what this one expects to find in a container.
    """

    def __init__(self, database: Database, source_sha256: str) -> None:
        self._database = database
        self._source_sha256 = source_sha256

    def record(self, helpers: Helpers) -> None:
        """Record what was built."""
        with self._database.write() as connection:
            connection.execute(insert(_HELPER), [helpers.model_dump()])

    def latest(self) -> Helpers | None:
        """The latest; None before the first were built of this source."""
        columns = [column for column in _HELPER.c if column.name != "id"]
        query = select(*columns).where(_HELPER.c.source_sha256 == self._source_sha256)
        query = query.order_by(_HELPER.c.id.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else Helpers(**row)

    def get(self) -> Helpers:
        """The latest.

        Raises:
            HelpersMissing
        """
        found = self.latest()
        if found is None:
            raise HelpersMissing("the sealing helpers are not built: run `slurmbridge node build`")
        return found


class KeyStore:
    """The public keys with which Runners of this bridge sign."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, public_key: str, *, now: datetime) -> None:
        """Make a key known; a known one stays as it is."""
        row = {"public_key": public_key, "registered_at": now}
        with self._database.write() as connection:
            connection.execute(self._database.insert(_KEY).on_conflict_do_nothing(), [row])

    def all(self) -> list[PublicKey]:
        """The known keys, the latest first."""
        query = select(_KEY.c.public_key, _KEY.c.registered_at)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_KEY.c.registered_at.desc()))
            return [PublicKey(**row) for row in rows.mappings()]
