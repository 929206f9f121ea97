"""What pip complains of, in one sentence. Pure; tests/recorded/pip-25.1 holds what it says."""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum, unique

from packaging.utils import canonicalize_name


@unique
class Fault(StrEnum):
    """Why requirements could not be installed."""

    UNKNOWN = "unknown"
    NO_VERSION = "no-version"
    NO_WHEEL = "no-wheel"
    OTHER_PYTHON = "other-python"
    WRONG_HASH = "wrong-hash"
    NO_HASH = "no-hash"
    CONFLICT = "conflict"
    # Size, number of files, time.
    TOO_MUCH = "too-much"
    NO_PIP = "no-pip"
    BUILD = "build"
    OTHER = "other"
    # The site's, from here on. The first may go away by itself.
    INDEX = "index"
    ENDED = "ended"
    SITE = "site"

    @property
    def is_site(self) -> bool:
        """Whether the submitter can do nothing about it."""
        return self in {Fault.INDEX, Fault.ENDED, Fault.SITE}

    @property
    def is_transient(self) -> bool:
        """Whether another attempt may succeed."""
        return self in {Fault.INDEX, Fault.ENDED}


Reason = tuple[Fault, str]
_NAME = r"([A-Za-z0-9][A-Za-z0-9._-]*)"
_NOT_FOUND = re.compile(
    r"^ERROR: Could not find a version that satisfies the requirement (.+?)"
    r"(?: \(from ([^()]*)\))? \(from versions: ([^()]*)\)$",
    re.M,
)
_NEEDS_PYTHON = re.compile(r"Skipping link: \S+ Requires-Python (\S+): (\S+)")
_NO_WHEEL = re.compile(
    r"Skipping link: (?:No sources permitted for \S+"
    r"|none of the wheel's tags \([^()]*\) are compatible \([^()]*\)): (\S+)"
)
_UNFETCHED = re.compile(r"^\s*Could not fetch URL (\S+): (?!404 )(.+?)(?: - skipping)?$", re.M)
_HASHES = re.compile(
    rf"^ERROR: THESE PACKAGES DO NOT MATCH.*\n\s+{_NAME}.*\n"
    r"\s+Expected (\w+) ([0-9a-f]+)\s*\n(?:\s+Expected or .*\n)*\s+Got\s+([0-9a-f]+)",
    re.M,
)
_UNHASHED = re.compile(
    r"^ERROR: (?:In --require-hashes mode, all requirements must have|Hashes are required in)"
    rf".*\n\s+{_NAME}.*?(?:\(from ({_NAME}).*)?$",
    re.M,
)
_CONFLICT = re.compile(r"^The conflict is caused by:\n((?:[ \t]+\S.*\n)+)", re.M)
_UNBUILT = re.compile(
    rf"^ERROR: (?:Failed to build|Failed building wheel for|Could not build wheels for) .*?{_NAME}",
    re.M,
)
_SHOWN_VERSIONS = 5
_SHOWN_LINES = 5
_SHOWN_SIGNS = 300


def why(said: str) -> Reason:
    """The sentence for the one who must act."""
    for judge in _JUDGES:
        if found := judge(said):
            return found
    lines = last_errors(said)
    return Fault.OTHER, f"pip failed: {lines[-1] if lines else 'it said nothing'}"


def last_errors(said: str) -> tuple[str, ...]:
    """pip's own last complaints, or what it said last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    chosen = (errors or lines)[-_SHOWN_LINES:]
    return tuple(
        "".join(sign if sign.isprintable() else " " for sign in line[:_SHOWN_SIGNS])
        for line in chosen
    )


def is_unanswered(said: str) -> bool:
    """Whether pip waited for an answer when it last said something."""
    return any("Read timed out" in line for line in said.splitlines()[-_SHOWN_LINES:])


def _no_room(said: str) -> Reason | None:
    if re.search(r"\[Errno (28|122)\]|^.*No space left on device", said, re.M):
        return Fault.TOO_MUCH, "the requirements take more space, or more files, than this site has"
    return None


def _no_container(said: str) -> Reason | None:
    # Apptainer's own last word, before pip has said any: a wheelhouse that the node does not see.
    if found := re.match(r"\s*FATAL:\s+(.*)", said):
        return Fault.SITE, f"the container of the installation did not start: {found[1]}"
    return None


def _no_pip(said: str) -> Reason | None:
    if re.search(r"No module named '?pip'?$", said, re.M):
        return Fault.NO_PIP, "the image has no pip, so that no requirements can be installed for it"
    if re.search(r"^(?:env|/usr/bin/env): .python3.: No such file", said, re.M):
        return Fault.NO_PIP, "the image has no python3, so that no requirements can be installed"
    if "no such option: --report" in said:
        return Fault.NO_PIP, "the image's pip is older than 22.2"
    return None


def _wrong_hash(said: str) -> Reason | None:
    if found := _HASHES.search(said):
        name, algorithm, expected, got = found.groups()
        told = f"its hash is wrong: expected {algorithm} {expected}, got {got}"
        return Fault.WRONG_HASH, f"requirement {name}: {told}"
    return None


def _no_hash(said: str) -> Reason | None:
    if found := _UNHASHED.search(said):
        needed = f", which {found[2]} needs," if found[2] else ""
        sentence = f"requirement {found[1]}{needed} has no hash and exact version; all must have"
        return Fault.NO_HASH, sentence
    return None


def _conflict(said: str) -> Reason | None:
    if found := _CONFLICT.search(said):
        causes = [line.strip() for line in found[1].splitlines()]
        told = "; ".join(cause.replace("The user requested", "asked for") for cause in causes)
        return Fault.CONFLICT, f"the requirements contradict each other: {told}"
    return None


def _not_found(said: str) -> Reason | None:
    found = _NOT_FOUND.search(said)
    if found is None:
        return None
    wanted, by, versions = found.groups()
    name = re.match(_NAME, wanted)
    project = canonicalize_name(name[1]) if name else wanted
    needed = f", which {by} needs:" if by and not by.startswith("-r ") else ":"
    start = f"requirement {wanted}{needed}"
    without_wheel = project in _projects(_NO_WHEEL, said)
    if versions != "none":
        known = versions.split(", ")
        more = "..., " if len(known) > _SHOWN_VERSIONS else ""
        told = f"there are {more}{', '.join(known[-_SHOWN_VERSIONS:])}"
        which = "no version that has a wheel for this image" if without_wheel else "no version"
        return Fault.NO_VERSION, f"{start} {which} matches; {told}"
    if unfetched := _unfetched(said, project):
        return Fault.INDEX, f"{start} the index cannot be read: {unfetched}"
    if without_wheel:
        return Fault.NO_WHEEL, f"{start} it has no wheel for this image"
    if python := _projects(_NEEDS_PYTHON, said).get(project):
        return Fault.OTHER_PYTHON, f"{start} it is for another Python: {python}"
    return Fault.UNKNOWN, f"{start} no version matches: there is no package of this name"


def _projects(pattern: "re.Pattern[str]", said: str) -> dict[str, str]:
    """The projects whose files match, by the files' names, and what is known of each."""
    found = {}
    for match in pattern.finditer(said):
        file = match[match.re.groups].partition("#")[0].rpartition("/")[2]
        for project in _named(file):
            found[project] = match[1]
    return found


def _named(file: str) -> Iterator[str]:
    """Which project a file belongs to: in an old source archive, its name may hold dashes."""
    if file.endswith(".whl"):
        yield canonicalize_name(file.partition("-")[0])
    else:
        parts = file.split("-")
        yield from (canonicalize_name("-".join(parts[:end])) for end in range(1, len(parts)))


def _unfetched(said: str, project: str) -> str | None:
    for url, reason in _UNFETCHED.findall(said):
        if canonicalize_name(url.rstrip("/").rpartition("/")[2]) == project:
            # What comes behind are objects of Python.
            return str(re.sub(r"\(Caused by .*", "", reason)).strip()
    return None


def _cut_off(said: str) -> Reason | None:
    lost = re.search(
        r"^ERROR: (?:Could not install packages due to an OSError: HTTPS?Connection.*"
        r"|HTTP error \d+ while getting .*|.*(?:Read timed out|IncompleteRead|Connection).*)$",
        said,
        re.M,
    )
    if lost is None:
        return None
    reason = re.sub(r"\(Caused by .*", "", lost[0].removeprefix("ERROR: ")).strip()
    return Fault.INDEX, f"a package could not be downloaded: {reason[:_SHOWN_SIGNS]}"


def _unbuilt(said: str) -> Reason | None:
    if found := _UNBUILT.search(said):
        return Fault.BUILD, f"requirement {found[1]}: it could not be built from its source"
    return None


_JUDGES: tuple[Callable[[str], Reason | None], ...] = (
    _no_container, _no_room, _no_pip, _wrong_hash, _no_hash, _conflict, _not_found, _cut_off,
    _unbuilt,
)  # fmt: skip
