"""What is durable beside Processes: images, tokens, Runners and what they saw of the site."""

import re
from datetime import datetime

from sqlalchemy import delete, select, update

from slurmbridge.errors import AmbiguousImage, ImageRefused, UnknownImage
from slurmbridge.model import ComputeCapability, Image
from slurmbridge.store.database import Database
from slurmbridge.store.tables import CapabilityRow, ImageRow, TokenRow

_IMAGE = ImageRow.__table__  # type: ignore[attr-defined]
_TOKEN = TokenRow.__table__  # type: ignore[attr-defined]
_CAPABILITY = CapabilityRow.__table__  # type: ignore[attr-defined]


class ImageStore:
    """Recorded images. What is not recorded cannot be run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, image: Image) -> None:
        """Record an image; the latest of a name is the one that runs.

        Raises:
            ImageRefused: it is revoked, and stays so.
        """
        values = image.model_dump()
        # One statement: somebody may revoke it at this moment.
        upsert = self._database.insert(_IMAGE).values(values)
        upsert = upsert.on_conflict_do_update(
            index_elements=["sha256"], set_=values, where=_IMAGE.c.revoked_at.is_(None)
        )
        recorded = upsert.returning(_IMAGE.c.sha256)
        reason = select(_IMAGE.c.revoked_reason).where(_IMAGE.c.sha256 == image.sha256)
        with self._database.write() as connection:
            if connection.execute(recorded).one_or_none() is None:
                why = connection.execute(reason).scalar_one()
                raise ImageRefused(f"the image {image.sha256} was revoked: {why}")

    def note_signed(self, sha256: str, signed: bool) -> None:
        """Record what was found of a signature. Nothing else changes."""
        with self._database.write() as connection:
            where = _IMAGE.c.sha256 == sha256
            connection.execute(update(_IMAGE).where(where).values(signed=signed))

    def revoke(self, sha256: str, *, by: str, reason: str, now: datetime) -> bool:
        """End an image for good. False when it was revoked already; then nothing changes."""
        values = {"revoked_at": now, "revoked_by": by, "revoked_reason": reason}
        valid = (_IMAGE.c.sha256 == sha256) & _IMAGE.c.revoked_at.is_(None)
        with self._database.write() as connection:
            return connection.execute(update(_IMAGE).where(valid).values(**values)).rowcount > 0

    def get(self, name: str) -> Image:
        """The latest image of this name, be it revoked or not: nothing older stands in for it.

        Raises:
            UnknownImage
        """
        latest = self.latest()
        if name not in latest:
            known = ", ".join(sorted(latest)) or "none"
            raise UnknownImage(f"no image named {name!r} is recorded; recorded: {known}")
        return latest[name]

    def find(self, name_or_digest: str) -> Image:
        """The latest of a name, or the one whose SHA-256 begins so, with 12 digits at least.

        Raises:
            UnknownImage
            AmbiguousImage: several are meant.
        """
        found = [image for image in self.latest().values() if image.name == name_or_digest]
        start = name_or_digest.lower()
        if re.fullmatch(r"[0-9a-f]{12,64}", start):
            found += [image for image in self.all() if image.sha256.startswith(start)]
        digests = sorted({image.sha256 for image in found})
        if len(digests) > 1:
            raise AmbiguousImage(f"{name_or_digest} may be any of {', '.join(digests)}")
        return found[0] if found else self.get(name_or_digest)

    def built_from(self, name: str, definition_sha256: str) -> Image | None:
        """The latest image of this name that was built from this definition."""
        for image in self.all():
            if (image.name, image.definition_sha256) == (name, definition_sha256):
                return image
        return None

    def with_digest(self, sha256: str) -> Image | None:
        """The image that is this file."""
        return next((image for image in self.all() if image.sha256 == sha256), None)

    def latest(self) -> dict[str, Image]:
        """The latest image of each name."""
        return {image.name: image for image in reversed(self.all())}

    def all(self) -> list[Image]:
        """All recorded images, newest first."""
        query = select(_IMAGE).order_by(_IMAGE.c.built_at.desc())
        with self._database.read() as connection:
            return [Image(**row) for row in connection.execute(query).mappings()]


class TokenStore:
    """Bearer tokens, by their hashes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, sha256: str, *, now: datetime, reviews: bool = False) -> None:
        """Record a token; an earlier one of the same name ends."""
        with self._database.write() as connection:
            row = {"name": name, "sha256": sha256, "created_at": now, "reviews": reviews}
            new = self._database.insert(_TOKEN).values(row)
            connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=row))

    def remove(self, name: str) -> bool:
        """End a token; whether there was one."""
        with self._database.write() as connection:
            return connection.execute(delete(_TOKEN).where(_TOKEN.c.name == name)).rowcount > 0

    def name_of(self, sha256: str) -> str | None:
        """Whose token has this hash."""
        query = select(_TOKEN.c.name).where(_TOKEN.c.sha256 == sha256)
        with self._database.read() as connection:
            name: str | None = connection.execute(query).scalar_one_or_none()
        return name

    def may_review(self, name: str) -> bool:
        """Whether somebody's token is one of those with which outputs are let out."""
        query = select(_TOKEN.c.reviews).where(_TOKEN.c.name == name)
        with self._database.read() as connection:
            return bool(connection.execute(query).scalar_one_or_none())

    def all(self) -> list[tuple[str, datetime, bool]]:
        """Names, times of creation, and who may review."""
        query = select(_TOKEN.c.name, _TOKEN.c.created_at, _TOKEN.c.reviews)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_TOKEN.c.name))
            return [(row[0], row[1], row[2]) for row in rows]


class SiteStore:
    """What Runners report of a cluster."""

    def __init__(self, database: Database, cluster: str = "default") -> None:
        self._database = database
        self._cluster = cluster

    def record_capability(self, capability: ComputeCapability) -> None:
        """Keep what a cluster reported."""
        row = {
            "cluster": self._cluster,
            "observed_at": capability.observed_at,
            "capability": capability.model_dump(mode="json"),
        }
        upsert = self._database.insert(_CAPABILITY).values(row)
        with self._database.write() as connection:
            connection.execute(upsert.on_conflict_do_update(index_elements=["cluster"], set_=row))

    def capability(self) -> ComputeCapability | None:
        """What the cluster last reported; None before the first report."""
        query = select(_CAPABILITY.c.capability).where(_CAPABILITY.c.cluster == self._cluster)
        with self._database.read() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else ComputeCapability.model_validate(found, strict=False)
