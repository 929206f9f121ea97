"""HTML in pieces. What no function here has made is text, and text is escaped."""

import re
from collections.abc import Iterable
from html import escape

from slurmbridge.trace.names import printable

_BEYOND = re.compile(r"[^ -~]+")
# Of a long name, this much of its beginning and of its end stands on the page.
_HEAD, _TAIL = 240, 80
# Elements without an end.
_VOID = frozenset({"meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def told(text: str) -> Markup:
    """Any text as HTML; what cannot be printed is told by its number."""
    return text if isinstance(text, Markup) else Markup(escape(printable(text)))


def joined(parts: Iterable[str]) -> Markup:
    """One after the other."""
    return Markup("".join(map(told, parts)))


def tag(name: str, /, *children: str, **attributes: str | int) -> Markup:
    """An element; `class_` is `class`, and `a_b` is `a-b`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{told(str(value))}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(children)}</{name}>")


def clipped(text: str, head: int = _HEAD, tail: int = _TAIL) -> tuple[str, int, str]:
    """Beginning and end of a long text, and how many signs are left out between."""
    text = printable(text)
    left_out = len(text) - head - tail
    return (text[:head], left_out, text[len(text) - tail :]) if left_out > 0 else (text, 0, "")


def short(text: str, length: int) -> str:
    """The beginning of a text where there is little room."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _marked(text: str) -> Markup:
    """Signs beyond ASCII are underlined: they may look like others."""
    parts, end = [], 0
    for found in _BEYOND.finditer(text):
        parts += [told(text[end : found.start()]), tag("u", found[0])]
        end = found.end()
    return joined([*parts, told(text[end:])])


def name(text: str) -> Markup:
    """A name, an argument or another text of the record, told apart from the page's own words."""
    head, left_out, tail = clipped(text)
    if not left_out:
        return tag("code", _marked(head))
    gap = tag("i", f"[{left_out} signs left out]")
    return joined([tag("code", _marked(head)), gap, tag("code", _marked(tail))])
