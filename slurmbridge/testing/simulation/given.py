"""What every simulated site has: an image, helpers, a key."""

from datetime import UTC, datetime
from functools import cache

from slurmbridge.model import Helpers, Image
from slurmbridge.script import DEFAULT_TEMPLATES, Templates

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
IMAGE = Image(
    name="python",
    sha256="1" * 64,
    definition_sha256="2" * 64,
    path="/shared/images/python-1111111111111111.sif",
    size_bytes=1 << 20,
    squashfs_offset=32768,
    labels={"org.opencontainers.image.title": "python"},
    built_at=START,
)
HELPERS = Helpers(
    architecture="x86_64",
    path="/shared/images/helpers-x86_64-5555555555555555",
    sbseal_sha256="3" * 64,
    sbprobe_sha256="4" * 64,
    source_sha256="5" * 64,
    built_at=START,
)


@cache
def templates() -> Templates:
    """The shipped ones, compiled once."""
    return Templates(DEFAULT_TEMPLATES)
