"""strace's text: where a line begins, its strings, its paths, its results.

strace escapes every byte outside printable ASCII, a quote and a backslash in what it prints, and
`<` and `>` in the path beside a descriptor: a program cannot forge a line, nor a piece of one.
"""

import re
from functools import lru_cache
from posixpath import normpath

# Who, when (seconds, microseconds), whether it goes on, which call or marker.
HEAD = re.compile(
    rb"(\d{1,10}) +(\d{1,11})\.(\d{6}) "
    rb"(?:(<\.\.\. )?([a-z_]\w*|\?\?\?)( resumed>|\()|(---|\+\+\+) )"
).match
MARKER = re.compile(
    rb"\+\+\+ (?:exited with (\d{1,3})|killed by (\w+)(?: \(core dumped\))?"
    rb"|superseded by execve in pid (\d{1,10})) \+\+\+$"
).match
SIGNAL = re.compile(
    rb"--- (?:stopped by (\w+)|(\w+) \{si_signo=(?:[^\"]*?si_pid=(-?\d{1,10}))?[^\"]*\}) ---$"
).match
REMARK = re.compile(rb"(?:\d+ +\d+\.\d{6} )?(?:strace: |\[ Process PID=)").match

UNFINISHED = b" <unfinished ...>"
# strace says so when a thread that is not the first executes a program.
_RENAMED = re.compile(rb" <(?:pid changed to \d+|unfinished) \.\.\.>$")
# Of calls without an event, these are told.
REFUSALS = (b" EPERM (Operation not permitted)", b" ENOSYS (Function not implemented)")

STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"(?:\.\.\.)?'
# A path argument; what is no string is a bad address, or NULL.
PATH = rb'(?:"([^"\\]*(?:\\.[^"\\]*)*)"(?:\.\.\.)?|NULL|0x[0-9a-f]+)'
# A descriptor, or the working directory, with its path.
AT = rb"(AT_FDCWD|-?\d+|0x[0-9a-f]+)(?:<([^>]*)>)?(?:\(deleted\))?"
# What follows holds no string: at most flags, modes, a structure; then the result.
TAIL = rb"(?:, )?([^<\"]*)\) += (.+)$"

_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_LETTERS = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"v": b"\v",
    b"f": b"\f",
    b"a": b"\a",
    b"b": b"\b",
}
_ERROR = re.compile(rb"-1 (E[A-Z0-9]+)\b").match
_NUMBER = re.compile(rb"-?\d{1,19}").match
_REAL = re.compile(rb"\d+<([^>]*)>").match
_DELETED = b" (deleted)"
NOWHERE = b"?"


def without_unfinished(text: bytes) -> bytes | None:
    """The beginning of a call that goes on in another line; None when it does not."""
    if not text.endswith(b" ...>"):
        return None
    if text.endswith(UNFINISHED):
        return text[: -len(UNFINISHED)]
    cut = _RENAMED.search(text, max(len(text) - 64, 0))
    return None if cut is None else text[: cut.start()]


def _byte(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = match.groups()
    if octal is not None:
        return bytes((int(octal, 8) & 255,))
    if hexadecimal is not None:
        return bytes((int(hexadecimal, 16),))
    return _LETTERS.get(letter, letter)


def plain(text: bytes) -> bytes:
    """What strace's escapes stand for."""
    return _ESCAPE.sub(_byte, text) if b"\\" in text else text


@lru_cache(maxsize=2048)
def resolved(base: bytes, path: bytes | None) -> bytes:
    """A path as an absolute one, without looking at links; NOWHERE/... where nobody knows."""
    if path is None:
        return NOWHERE
    name = plain(path)
    if not name.startswith(b"/"):
        if not name:
            return base
        name = base + b"/" + name
    elif b"/." not in name and b"//" not in name and not name.endswith(b"/"):
        return name
    # normpath keeps two slashes at the beginning, and begins with a dot where there is none.
    return normpath(b"/" + name.lstrip(b"/")) if name.startswith(b"/") else normpath(name)


@lru_cache(maxsize=256)
def folder(decoration: bytes) -> bytes:
    """The path beside AT_FDCWD or a descriptor."""
    path = plain(decoration)
    return path[: -len(_DELETED)] if path.endswith(_DELETED) else path


@lru_cache(maxsize=512)
def error_of(result: bytes) -> str:
    """ "" for a success, the error's name, or "?"."""
    if result.startswith(b"-1"):
        found = _ERROR(result)
        return found[1].decode() if found else "?"
    return "?" if result.startswith(b"?") else ""


@lru_cache(maxsize=512)
def real_of(result: bytes) -> bytes | None:
    """The path beside the descriptor that a call gave."""
    found = _REAL(result)
    return plain(found[1]) if found else None


def number_of(result: bytes) -> int | None:
    """The number that a call gave."""
    found = _NUMBER(result)
    return int(found[0]) if found else None
