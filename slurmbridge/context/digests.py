"""One SHA-256 for a whole folder, that anybody can compute: pure."""

import hashlib
from collections.abc import Iterable

# What gives the same, in the folder. sha256sum escapes these in names, and says so by a backslash.
SHELL = (
    "find . -type f -print0 | LC_ALL=C sort --zero-terminated"
    " | xargs --null --no-run-if-empty sha256sum | sha256sum"
)
_ESCAPED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def tree_sha256(files: Iterable[tuple[str, str]]) -> str:
    """Of (path, SHA-256) for each file, in whatever order."""
    lines = sorted((path.encode(errors="surrogateescape"), digest) for path, digest in files)
    whole = hashlib.sha256()
    for path, digest in lines:
        whole.update(_line(path.decode(errors="surrogateescape"), digest))
    return whole.hexdigest()


def _line(path: str, digest: str) -> bytes:
    escaped = "".join(_ESCAPED.get(sign, sign) for sign in path)
    mark = "\\" if escaped != path else ""
    return f"{mark}{digest}  ./{escaped}\n".encode(errors="surrogateescape")
