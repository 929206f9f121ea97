"""The code that a site has approved, by its SHA-256."""

import re
from dataclasses import dataclass
from pathlib import Path

from slurmbridge.errors import InvalidProcess, StagingFailed

_LIMIT = 16 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Approved:
    """A file of this host: in each line a digest, and after it what anybody wants to remember."""

    path: Path

    def require(self, sha256: str) -> None:
        """Let nothing pass but what stands in the file now.

        Raises:
            InvalidProcess: it does not.
            StagingFailed: the file cannot be read, or a line of it cannot be meant.
        """
        if sha256 not in self._digests():
            raise InvalidProcess(
                f"the code is not approved: its SHA-256 is {sha256}, and this site runs only what "
                "it has approved"
            )

    def _digests(self) -> set[str]:
        try:
            with self.path.open("rb") as file:
                text = file.read(_LIMIT + 1)
        except OSError as error:
            raise StagingFailed(f"the approved code cannot be read: {error.strerror}") from error
        if len(text) > _LIMIT:
            raise StagingFailed(f"{self.path}, the approved code, is too large")
        found = set()
        for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if not _DIGEST.fullmatch(words[0]):
                raise StagingFailed(f"{self.path}: line {number} does not begin with a SHA-256")
            found.add(words[0])
        return found
