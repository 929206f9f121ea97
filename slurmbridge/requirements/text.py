"""Reading a requirements.txt: what is taken, and one sentence for what is not. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from slurmbridge.errors import InvalidProcess

FILE = "requirements.txt"
BYTES_LIMIT = 256 * 1024
LINE_BYTES_LIMIT = 16 * 1024
COUNT_LIMIT = 1000

# As pip has it: a sign within a word begins no comment.
_COMMENT = re.compile(r"(^|\s+)#.*$")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_VCS = re.compile(r"(git|hg|svn|bzr)(\+|:)", re.I)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:", re.I)
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tar\.(gz|bz2|xz)|tgz|tbz|txz|egg)$", re.I)
_HASH = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)")
# One exact version, as pip asks of what has a hash.
_PINNED = re.compile(r"^[^=<>~!,]*===?[^=<>~!,*]+$")
_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_SHOWN = 80
_OPTION_REASONS = {
    "-r": "other files are not read",
    "--requirement": "other files are not read",
    "-c": "other files are not read",
    "--constraint": "other files are not read",
    "-e": "editable installation is not supported",
    "--editable": "editable installation is not supported",
    "-i": "the site says which index is used",
    "--index-url": "the site says which index is used",
    "--extra-index-url": "the site says which index is used",
    "--no-index": "the site says which index is used",
    "-f": "the site says where wheels are found",
    "--find-links": "the site says where wheels are found",
    "--trusted-host": "the site says which index is used",
    "--only-binary": "the site says what may be built",
    "--no-binary": "the site says what may be built",
    "--require-hashes": "it is set when the lines have hashes",
}
# File names that belong to other tools, and whose they are.
_NOT_YET = {
    "renv.lock": "R's renv.lock is",
    "environment.yml": "conda's environment.yml is",
    "environment.yaml": "conda's environment.yaml is",
    "conda-lock.yml": "conda-lock.yml is",
    "conda-lock.yaml": "conda-lock.yaml is",
    "poetry.lock": "poetry.lock is",
    "pipfile": "Pipfile is",
    "pipfile.lock": "Pipfile.lock is",
    "uv.lock": "uv.lock is",
    "pdm.lock": "pdm.lock is",
    "pylock.toml": "pylock.toml is",
    "pyproject.toml": "pyproject.toml is",
    "setup.py": "setup.py is",
}


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is to be installed: canonical lines, sorted, each once."""

    lines: tuple[str, ...]
    hashed: bool

    @property
    def text(self) -> str:
        """The file that pip is given."""
        return "".join(f"{line}\n" for line in self.lines)


def read_requirements(content: bytes, *, name: str = FILE) -> Requirements:
    """Read the file `name`.

    Raises:
        InvalidProcess: with one sentence for each line that is not taken.
    """
    if reason := _NOT_YET.get(name.rpartition("/")[2].lower()):
        raise _refused(f"{reason} not supported yet: write a {FILE}")
    found: list[tuple[int, str, bool]] = []
    problems: list[str] = []
    for number, line in _logical_lines(_decoded(content)):
        try:
            found.append((number, *_line(line)))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if len(found) > COUNT_LIMIT:
        problems.append(f"it has {len(found)} requirements; {COUNT_LIMIT} are taken")
    if not problems and any(hashed for _, _, hashed in found):
        problems = [
            f"line {number}: {line.partition(' ')[0]} has no hash; when one has, all must"
            for number, line, hashed in found
            if not hashed
        ]
    if problems:
        raise _refused(*problems)
    lines = tuple(sorted({line for _, line, _ in found}))
    return Requirements(lines, hashed=bool(found) and found[0][2])


def _refused(*problems: str) -> InvalidProcess:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    fields = tuple(("requirements", problem) for problem in problems)
    return InvalidProcess(f"requirements: {problems[0]}{more}", fields)


def _decoded(content: bytes) -> str:
    if len(content) > BYTES_LIMIT:
        raise _refused(f"the file has {len(content)} bytes; {BYTES_LIMIT} are taken")
    if b"\0" in content:
        number = content[: content.index(b"\0")].count(b"\n") + 1
        raise _refused(f"line {number}: it holds a NUL byte")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise _refused(f"line {number}: it is not UTF-8") from error


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, without comments and empty ones; numbers begin at 1."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        begun = begun if parts else number
        comment = re.match(r"\s*#", line)
        if line.endswith("\\") and not comment:
            parts.append(line[:-1])
            continue
        # pip ends a continued line with a comment that follows it, and drops the comment.
        parts.append(f" {line}" if comment else line)
        whole, parts = "".join(parts), []
        if stripped := _COMMENT.sub("", whole).strip():
            yield begun, stripped
    if stripped := _COMMENT.sub("", "".join(parts)).strip():
        yield begun, stripped


def _line(line: str) -> tuple[str, bool]:
    """One requirement in its canonical form, and whether it has hashes."""
    if len(line.encode()) > LINE_BYTES_LIMIT:
        raise ValueError(f"it has more than {LINE_BYTES_LIMIT} bytes")
    if not line.replace("\t", " ").isprintable():
        raise ValueError("it holds a control character, or a space that is not one")
    if _VARIABLE.search(line):
        raise ValueError("variables of the environment are not read")
    words = line.split()
    # As pip has it: options begin at the first word that begins with a dash, quoted or not.
    place = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if place == 0:
        raise ValueError(_option(words[0]))
    requirement = _requirement(" ".join(words[:place]))
    hashes = sorted(set(_hashes(words[place:])))
    if hashes and not _PINNED.search(requirement.partition(" ")[0]):
        raise ValueError(f"{requirement} has a hash, so that it must have one version, by ==")
    return " ".join([requirement, *(f"--hash={value}" for value in hashes)]), bool(hashes)


def _option(word: str) -> str:
    option = word.partition("=")[0]
    # Of a short option, the value may follow at once.
    option = option if option.startswith("--") else option[:2]
    reason = _OPTION_REASONS.get(option, "only --hash is taken, behind a requirement")
    return f"the option {_shown(option)} is refused: {reason}"


def _hashes(words: list[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--hash":
            raise ValueError(_option(word) if word.startswith("-") else _no_word(word))
        value = value if equals else next(rest, "")
        found = _HASH.fullmatch(value)
        if found is None or len(found[2]) != _DIGITS[found[1]]:
            raise ValueError(f"{_shown(value)} is no hash: sha256, sha384 or sha512, ':' and hex")
        yield value


def _no_word(word: str) -> str:
    return f"{_shown(word)} stands behind an option"


def _requirement(text: str) -> str:
    if _VCS.match(text):
        raise ValueError("version control is refused: only packages of the index are installed")
    if _URL.match(text):
        raise ValueError("addresses are refused: only packages of the index are installed")
    if text.startswith((".", "/", "~")) or "\\" in text or re.match(r"[\w.-]+/", text):
        raise ValueError("paths are refused: only packages of the index are installed")
    try:
        read = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{_shown(text)} is no requirement: {reason}") from error
    if read.url is not None:
        raise ValueError("addresses are refused: only packages of the index are installed")
    if _ARCHIVE.search(read.name):
        raise ValueError("files are refused: only packages of the index are installed")
    extras = ",".join(sorted(canonicalize_name(extra) for extra in read.extras))
    marker = f" ; {read.marker}" if read.marker else ""
    name = canonicalize_name(read.name) + (f"[{extras}]" if extras else "")
    return f"{name}{read.specifier}{marker}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
