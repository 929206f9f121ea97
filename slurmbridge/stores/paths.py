"""Which paths and names a store can have: pure."""

import re
import secrets
from collections.abc import Iterable

from slurmbridge.errors import StoreAnswerUnreadable, StoreForbids

_PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NAME_BYTES = 255
_PATH_BYTES = 4096


def check_path(path: str, *, root: bool = False) -> str:
    """Return a path that can be one in a store. `root`: whether it may be the store itself.

    Raises:
        StoreForbids: it is absolute, climbs, has an empty part or a control character, or is long.
    """
    if root and not path:
        return path
    if path.startswith("/"):
        raise StoreForbids(f"the path {shown(path)} is absolute; it must be relative to its store")
    for part in path.split("/"):
        if why := why_unusable(part):
            raise StoreForbids(f"the path {shown(path)} cannot be used: {why}")
    if len(path.encode("utf-8", "surrogateescape")) > _PATH_BYTES:
        raise StoreForbids(f"the path {shown(path)} is too long")
    return path


def why_unusable(name: str) -> str | None:
    """Why a name cannot be part of a path; None when it can."""
    if name in {"", ".", ".."}:
        return "it has an empty part, '.' or '..'"
    if "/" in name or _CONTROL.search(name):
        return "it holds a control character" if "/" not in name else "it holds '/'"
    try:
        size = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return "it is no text"
    return "a part of it is too long" if size > _NAME_BYTES else None


def check_names(store: str, folder: str, names: Iterable[str]) -> None:
    """Refuse a list that no folder can have.

    Raises:
        StoreAnswerUnreadable
    """
    seen = set()
    for name in names:
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise StoreAnswerUnreadable(
                f"{of(store, folder)}: the list holds {shown(name)}, which is no name"
            )
        if name in seen:
            raise StoreAnswerUnreadable(f"{of(store, folder)}: the list holds {shown(name)} twice")
        seen.add(name)


def partial_name() -> str:
    """A name for a file that is still being written."""
    return f".partial-{secrets.token_hex(8)}"


def is_partial(name: str) -> bool:
    """Whether a file was being written under this name when something broke."""
    return _PARTIAL.fullmatch(name) is not None


def split(path: str) -> tuple[str, str]:
    """The folder of a path, and its last part."""
    folder, _, name = path.rpartition("/")
    return folder, name


def join(folder: str, name: str) -> str:
    """A name in a folder."""
    return f"{folder}/{name}" if folder else name


def of(store: str, path: str) -> str:
    """How a sentence about a path in a store begins."""
    return f"store {store}: {shown(path)}" if path else f"store {store}"


def shown(text: str) -> str:
    """A name as it can be shown: short, and without what a terminal acts on."""
    short = text if len(text) <= 120 else text[:117] + "..."
    return "".join(
        sign if sign.isprintable() and not "\ud800" <= sign <= "\udfff" else ascii(sign)[1:-1]
        for sign in short
    ) or "''"  # fmt: skip
