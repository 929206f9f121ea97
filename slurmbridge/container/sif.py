"""What is in an image file, as Apptainer says it. Every answer is about the bytes of one file."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from slurmbridge.container.apptainer import inspection
from slurmbridge.errors import ImageRefused
from slurmbridge.shell import Command, Reply, Shell

# Apptainer wants a home, and no setting of ours may change what it says.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
_TIMEOUT_SECONDS = 600.0
_FILESYSTEMS = re.compile(r"\|(\d+)-\d+\s*\|FS \(([^)]*)\)")
_LIBRARIES = "/.singularity.d/libs"
_NOT_OF_THE_IMAGE = frozenset(
    {"HOME", "OLDPWD", "PROMPT_COMMAND", "PS1", "PWD", "SHLVL", "TERM", "_"}
)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SifReader:
    """Asks Apptainer, on the host of a shell."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def squashfs_offset(self, image: Path) -> int:
        """Where the file system begins, in bytes.

        Raises:
            ImageRefused: it is no SIF file, or does not hold one squashfs and nothing like it.
        """
        reply = self._apptainer("sif", "list", str(image))
        found = _FILESYSTEMS.findall(reply.stdout) if reply.exit_code == 0 else []
        # A second one would be neither what is signed nor what is run, or only one of them.
        if len(found) != 1 or not found[0][1].startswith("Squashfs/*System/"):
            raise ImageRefused(f"{image.name} is not a SIF file with one squashfs file system")
        return int(found[0][0])

    def labels(self, image: Path) -> dict[str, str]:
        """What the image says of itself."""
        reply = self._apptainer("inspect", "--json", "--labels", str(image))
        try:
            labels = json.loads(reply.stdout)["data"]["attributes"]["labels"] or {}
            return {str(key): str(value) for key, value in labels.items()}
        except (ValueError, LookupError, AttributeError, TypeError):
            return {}

    def signature_problem(self, image: Path, key: Path) -> str | None:
        """Why the image is not wholly signed with this key; None when it is."""
        reply = self._apptainer("verify", "--key", str(key), str(image))
        return None if reply.exit_code == 0 else _last_words(reply)

    def environment(self, image: Path) -> dict[str, str]:
        """The variables that the image itself gives to every program.

        Raises:
            ImageRefused: it cannot be run here, has no `env`, or its %environment prints.
        """
        reply = self._run(inspection(str(image)))
        if reply.exit_code != 0:
            raise ImageRefused(f"{image.name} does not run `env -0`: {_last_words(reply)}")
        return image_variables(_variables(image.name, reply.stdout))

    def _apptainer(self, *words: str) -> Reply:
        return self._run(("apptainer", *words))

    def _run(self, argv: tuple[str, ...]) -> Reply:
        return self._shell.run(
            Command(argv, timeout_seconds=_TIMEOUT_SECONDS, environment=_ENVIRONMENT)
        )


def _variables(name: str, text: str) -> dict[str, str]:
    found = {}
    for item in text.split("\0"):
        key, separator, value = item.partition("=")
        if not item:
            continue
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise ImageRefused(f"{name}: {item[:80]!r} is no variable; does %environment print?")
        # What is not UTF-8 comes as this sign.
        if "\N{REPLACEMENT CHARACTER}" in value:
            raise ImageRefused(f"{name}: the value of {key} is not valid UTF-8")
        found[key] = value
    return found


def image_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that are the image's own, without what Apptainer adds."""
    found = {
        key: value
        for key, value in variables.items()
        if key not in _NOT_OF_THE_IMAGE and not key.startswith(("APPTAINER", "SINGULARITY"))
    }
    if folders := found.pop("LD_LIBRARY_PATH", None):
        # Apptainer's 99-base.sh puts its own folder at the end, whatever the image has.
        own = [folder for folder in folders.split(":") if folder != _LIBRARIES]
        found |= {"LD_LIBRARY_PATH": ":".join(own)} if any(own) else {}
    return found


def _last_words(reply: Reply) -> str:
    lines = [line.strip() for line in reply.stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("FATAL:")]
    words = (fatal or lines or [f"exit code {reply.exit_code}"])[-1]
    return words.removeprefix("FATAL:").strip()
