"""What an installation left, in values and one sentence. Pure: over the texts of its files."""

import json
import re
from collections.abc import Mapping
from typing import Literal

from packaging.utils import canonicalize_name
from pydantic import Field, ValidationError

from slurmbridge.model import Locked
from slurmbridge.requirements.said import Fault, is_unanswered, last_errors, why
from slurmbridge.values import Value

# The folder of an attempt holds these; of each, so many bytes are read.
FILES: Mapping[str, int] = {
    "exit_code": 16,
    "packed": 128,
    "files": 32,
    "report.json": 8 * 1024 * 1024,
    "said": 1024 * 1024,
    "refused": 4096,
    "stopped": 4096,
}
MADE = "made"
IMAGE_FILE = "requirements.sqsh"
_PACKED = re.compile(r"([0-9a-f]{64}) ([0-9]{1,18})")
_TOLD = 500
_UNREADABLE = "the record of the installation cannot be read"


class Installed(Value):
    """An image of requirements, and what is in it."""

    sha256: str = Field(pattern="[0-9a-f]{64}")
    size_bytes: int
    files: int
    pip: str
    python: str
    lock: tuple[Locked, ...]


class NotInstalled(Value):
    """Why there is none; `said` are pip's own last lines."""

    fault: Fault
    sentence: str
    said: tuple[str, ...] = ()

    @property
    def side(self) -> Literal["submitter", "site"]:
        """Who has to act."""
        return "site" if self.fault.is_site else "submitter"


def read_outcome(files: Mapping[str, bytes]) -> Installed | NotInstalled:
    """What the files of an attempt say. Missing ones are left out of `files`."""
    texts = {name: content.decode(errors="replace").strip() for name, content in files.items()}
    said = texts.get("said", "")
    if refused := texts.get("refused"):
        return NotInstalled(fault=Fault.SITE, sentence=_plain(refused))
    if stopped := texts.get("stopped"):
        # Time passes while nobody answers, too.
        fault = Fault.INDEX if is_unanswered(said) else Fault.TOO_MUCH
        sentence = f"the requirements cannot be installed: {_plain(stopped)}"
        sentence += "; the index did not answer" if fault is Fault.INDEX else ""
        return NotInstalled(fault=fault, sentence=sentence, said=last_errors(said))
    if texts.get("exit_code") == "0":
        return _installed(texts)
    if texts.get("exit_code") in {None, "137", "143"} and "ERROR: " not in said:
        sentence = "the installation was ended before it was done"
        return NotInstalled(fault=Fault.ENDED, sentence=sentence, said=last_errors(said))
    fault, sentence = why(said)
    return NotInstalled(fault=fault, sentence=_plain(sentence), said=last_errors(said))


def _installed(texts: Mapping[str, str]) -> Installed | NotInstalled:
    packed = _PACKED.fullmatch(texts.get("packed", ""))
    if packed is None:
        return NotInstalled(fault=Fault.SITE, sentence=_UNREADABLE)
    try:
        report = json.loads(texts.get("report.json", ""))
        lock = [_locked(entry) for entry in report["install"]]
        return Installed(
            sha256=packed[1],
            size_bytes=int(packed[2]),
            files=int(texts["files"]),
            pip=report["pip_version"],
            python=report["environment"]["python_full_version"],
            lock=tuple(sorted(lock, key=lambda entry: entry.name)),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, ValidationError):
        return NotInstalled(fault=Fault.SITE, sentence=_UNREADABLE)


def _locked(entry: Mapping[str, Mapping[str, object]]) -> Locked:
    archive = entry["download_info"].get("archive_info")
    hashes = archive.get("hashes", {}) if isinstance(archive, dict) else {}
    return Locked.model_validate(
        {
            "name": canonicalize_name(str(entry["metadata"]["name"])),
            "version": entry["metadata"]["version"],
            "hashes": hashes,
            "requested": entry["requested"],
        }
    )


def _plain(text: str) -> str:
    """One line of printable text, and not a long one."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= _TOLD else f"{line[:_TOLD]}..."
