"""The name of a set of installed requirements: what it depends on, and nothing else. Pure."""

import hashlib
import json

from slurmbridge.model import Image
from slurmbridge.requirements.step import Index, Wheelhouse
from slurmbridge.requirements.text import Requirements

# Raised when the step makes something else of the same requirements.
FORMAT = 1


def key(
    requirements: Requirements,
    image: Image,
    source: Index | Wheelhouse,
    *,
    architecture: str,
    sources_built: bool = False,
) -> str:
    """SHA-256, in hex. Addresses and folders are the site's; the source is known by its name."""
    known = {
        "format": FORMAT,
        "image": image.sha256,
        "architecture": architecture,
        "source": [type(source).__name__.lower(), source.name],
        "sources_built": sources_built,
        "lines": requirements.lines,
    }
    text = json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
