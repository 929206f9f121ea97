"""Which output files a site lets out, by their names: pure."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is for a file. Without `/` it is for the last part of the path; with it,
    part by part for the whole path, and `**` stands for any number of parts.
    """
    parts = path.split("/")
    if "/" not in pattern:
        return fnmatchcase(parts[-1], pattern)
    return _match(parts, pattern.split("/"))


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    first, rest = patterns[0], patterns[1:]
    if first == "**":
        return any(_match(parts[start:], rest) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _match(parts[1:], rest)


def kept_back(patterns: Sequence[str] | None) -> Callable[[str], str | None]:
    """Why a file is kept back; of those that a pattern is for, or where there are none: None."""

    def why(path: str) -> str | None:
        if patterns is None or any(matches(path, pattern) for pattern in patterns):
            return None
        return f"its name is none of: {', '.join(patterns) or 'none is let out'}"

    return why
