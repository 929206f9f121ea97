"""Building sbseal and sbprobe, which run in every sealed container, from their C source."""

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from slurmbridge.errors import HelpersMissing, ShellUnavailable
from slurmbridge.model import Helpers
from slurmbridge.shell import Command, Shell

SOURCES = Path(__file__).parent.parent / "node"
NAMES = ("sbseal", "sbprobe")
# Static, because nothing of the image may have a say in them.
FLAGS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-static", "-s")
COMPILER = "gcc"
_COMPILE_SECONDS = 120.0
_ASK_SECONDS = 10.0


def source_sha256(sources: Path = SOURCES) -> str:
    """The state of the source, flags of the compiler included.

    Raises:
        HelpersMissing: it is not there.
    """
    whole = hashlib.sha256(" ".join(FLAGS).encode())
    try:
        for name in NAMES:
            whole.update((sources / f"{name}.c").read_bytes())
        for header in sorted(sources.glob("*.h")):
            whole.update(header.read_bytes())
    except OSError as error:
        raise HelpersMissing(f"{error.filename}: {error.strerror}") from error
    return whole.hexdigest()


class HelperRecords(Protocol):
    """Where built helpers are recorded."""

    def record(self, helpers: Helpers) -> None:
        """Record what was built."""

    def latest(self) -> Helpers | None:
        """The latest."""


class HelperBuilder:
    """Builds the helpers into a folder that all nodes see, once for each state of the source."""

    def __init__(
        self,
        records: HelperRecords,
        shell: Shell,
        *,
        folder: Path,
        clock: Callable[[], datetime],
        sources: Path = SOURCES,
    ) -> None:
        self._records = records
        self._shell = shell
        self._folder = folder
        self._clock = clock
        self._sources = sources

    def ensure(self) -> Helpers:
        """The recorded helpers when they are whole and of this source; else built ones.

        Raises:
            HelpersMissing
        """
        return self._usable() or self.build()

    def problem(self) -> str | None:
        """What stands in the way of `ensure`, as far as can be seen without compiling."""
        try:
            if self._usable():
                return None
            question = Command((COMPILER, "-print-file-name=libc.a"), timeout_seconds=_ASK_SECONDS)
            reply = self._shell.run(question)
        except (HelpersMissing, ShellUnavailable) as error:
            return f"the sealing helpers are not built, and cannot be: {error}"
        # A compiler that has no such file says its name and nothing more.
        if reply.exit_code != 0 or not reply.stdout.startswith("/"):
            return "the sealing helpers are not built, and libc's static library is missing"
        return None

    def _usable(self) -> Helpers | None:
        recorded = self._records.latest()
        if recorded and recorded.source_sha256 == source_sha256(self._sources):
            return recorded if _is_intact(recorded) else None
        return None

    def build(self) -> Helpers:
        """Compile and record.

        Raises:
            HelpersMissing: the compiler is missing or fails.
        """
        source = source_sha256(self._sources)
        architecture = platform.machine()
        try:
            with tempfile.TemporaryDirectory(prefix=".build-", dir=self._folder) as scratch:
                fresh = Path(scratch) / "helpers"
                fresh.mkdir(mode=0o750)
                for name in NAMES:
                    self._compile(name, fresh / name)
                digests = {name: _sha256(fresh / name) for name in NAMES}
                final = self._folder / f"helpers-{architecture}-{_short(digests)}"
                _put(fresh, final, digests)
        except OSError as error:
            raise HelpersMissing(
                f"the sealing helpers cannot be built: {error.filename}: {error.strerror}"
            ) from error
        helpers = Helpers(
            architecture=architecture,
            path=str(final),
            sbseal_sha256=digests["sbseal"],
            sbprobe_sha256=digests["sbprobe"],
            source_sha256=source,
            built_at=self._clock(),
        )
        self._records.record(helpers)
        return helpers

    def _compile(self, name: str, target: Path) -> None:
        argv = (COMPILER, *FLAGS, "-o", str(target), str(self._sources / f"{name}.c"))
        try:
            reply = self._shell.run(Command(argv, timeout_seconds=_COMPILE_SECONDS))
        except ShellUnavailable as error:
            raise HelpersMissing(
                f"the sealing helpers cannot be built: {error}. Install gcc and libc's static "
                "library, or build them elsewhere"
            ) from error
        if reply.exit_code != 0:
            raise HelpersMissing(f"{COMPILER} failed on {name}.c: {reply.stderr.strip()[-2000:]}")
        target.chmod(0o550)


def _short(digests: Mapping[str, str]) -> str:
    """Of the files, not of their source: jobs that wait ask for exactly these."""
    return hashlib.sha256("".join(digests[name] for name in NAMES).encode()).hexdigest()[:16]


def _put(fresh: Path, final: Path, digests: Mapping[str, str]) -> None:
    """Move what was built to its place, unless the same is there already."""
    if _holds(final, digests):
        return
    shutil.rmtree(final, ignore_errors=True)
    try:
        fresh.rename(final)
    except OSError:
        # Another one may have been faster; the same source and compiler make the same files.
        if not _holds(final, digests):
            raise


def _holds(folder: Path, digests: Mapping[str, str]) -> bool:
    try:
        return all(_sha256(folder / name) == digests[name] for name in NAMES)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_intact(helpers: Helpers) -> bool:
    wanted = {"sbseal": helpers.sbseal_sha256, "sbprobe": helpers.sbprobe_sha256}
    return _holds(Path(helpers.path), wanted)
