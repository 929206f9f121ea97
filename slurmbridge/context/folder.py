"""One Process's Compute Context on the shared file system."""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from slurmbridge.context.tree import (
    Bounds,
    Copied,
    Ignored,
    NotPlain,
    TooMuch,
    copy_file,
    copy_tree,
    opened,
)
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.model import Input, ProcessSpec

LOG_FILES = {"stdout": "stdout.txt", "stderr": "stderr.txt", "job": "job.log"}
TRACE = "trace.zst"
_NOTHING: Mapping[str, bytes] = MappingProxyType({})
_SMALL = 64 * 1024
# 256 variables with the longest names, and what the probe of a hostile image would print.
_FACTS = 1024 * 1024
GROWTH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Left:
    """What a job's script left for the bridge."""

    exit_code: int | None
    refused: str | None
    # The job that took the context.
    taken_by: int | None = None
    # Where and when the container was compared with what was expected, and what was found.
    attested: str | None = None
    facts: str | None = None
    # What the program itself has brought about, so that it was ended.
    stopped: str | None = None
    # The trace reached its limit, and what came after is not in it.
    trace_cut: bool = False

    @property
    def node(self) -> str | None:
        """The node on which it ran, as far as it came to that."""
        return self.attested.partition(" ")[0] if self.attested else None


@dataclass(frozen=True, slots=True)
class Carried:
    """What was carried out of a context."""

    files: tuple[Copied, ...]
    ignored: tuple[Ignored, ...]
    # Why nothing of output/ was carried, when it was too much.
    too_much: str | None = None


class ContextTaken(Exception):
    """A job has taken the context."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} has taken the context")
        self.job_id = job_id


class ContextFolder:
    """The folder of one Process. `words` turns a list into the text that the script reads."""

    def __init__(self, root: Path, process_id: str) -> None:
        self.path = root / process_id

    def make(self, command: bytes, environment: bytes, expected_facts: bytes) -> None:
        """Begin anew: what an earlier, unfinished preparation left is removed.

        Raises:
            ContextTaken: a job works in it.
            StagingFailed
        """
        try:
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                if (job_id := self.taken_by()) is not None:
                    raise ContextTaken(job_id) from None
                self.remove()
                self.path.mkdir(mode=0o700)
            (self.path / "input").mkdir(mode=0o750)
            (self.path / "code").mkdir(mode=0o750)
            (self.path / "command.list").write_bytes(command)
            (self.path / "environment.list").write_bytes(environment)
            (self.path / "facts.expected").write_bytes(expected_facts)
        except OSError as error:
            raise StagingFailed(f"the context cannot be made: {error.strerror}") from error

    def stage(self, spec: ProcessSpec, stores: Mapping[str, Path], bounds: Bounds) -> list[Copied]:
        """Copy code and inputs in; what was copied is named by its path in the context.

        Raises:
            InvalidProcess: something is not there, is no plain file or folder, or is too large.
            StagingFailed: it could not be read or written.
        """
        copied: list[Copied] = []
        if spec.code:
            (self.path / "code").rmdir()
            copied += self._stage_one(spec.code.source, "code", stores, bounds)
        for entry in spec.inputs:
            copied += self._stage_input(entry, stores, _less(bounds, copied))
        return copied

    def _stage_input(
        self, entry: Input, stores: Mapping[str, Path], bounds: Bounds
    ) -> list[Copied]:
        target = self.path / "input" / entry.name
        try:
            target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise StagingFailed(f"/input/{entry.name} cannot be made: {error.strerror}") from error
        return self._stage_one(entry.source, f"input/{entry.name}", stores, bounds)

    def _stage_one(
        self, source: str, target: str, stores: Mapping[str, Path], bounds: Bounds
    ) -> list[Copied]:
        store, _, path = source.partition(":")
        if store not in stores or not stores[store].is_dir():
            raise StagingFailed(f"the folder of the store {store} is missing")
        programs = target == "code"
        try:
            with opened(stores[store], path) as descriptor:
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    into = self.path / target
                    copied, ignored = copy_tree(descriptor, into, bounds, programs=programs)
                    if ignored:
                        raise NotPlain(f"it holds {ignored[0]}")
                    return [replace(file, path=f"{target}/{file.path}") for file in copied]
                if target == "code":
                    (self.path / "code").mkdir(mode=0o750)
                    target = f"code/{path.rpartition('/')[2]}"
                into = self.path / target
                limit = bounds.bytes
                return [copy_file(descriptor, into, limit, name=target, programs=programs)]
        except FileNotFoundError:
            raise InvalidProcess(f"{source} does not exist") from None
        except (NotPlain, TooMuch) as error:
            raise InvalidProcess(f"{source} cannot be staged: {error}") from None
        except PermissionError:
            raise InvalidProcess(f"{source} cannot be read by the bridge") from None
        except OSError as error:
            raise StagingFailed(f"{source} could not be staged: {error.strerror}") from error

    def left(self) -> Left:
        """What the script left. Only the bridge and its job can write these files.

        Raises:
            StagingFailed: a file is there and cannot be read.
        """
        code = self._read("exit_code")
        return Left(
            exit_code=int(code) if code and code.isdecimal() else None,
            refused=self._read("refused"),
            taken_by=self.taken_by(),
            attested=self._read("attested"),
            facts=self._read("facts", _FACTS),
            stopped=self._read("stopped"),
            trace_cut=self._read("trace.cut") is not None,
        )

    def exists(self) -> bool:
        """Whether there is such a context."""
        return self.path.is_dir()

    def taken_by(self) -> int | None:
        """The job that has taken the context."""
        try:
            job_id = str((self.path / "claim").readlink())
        except OSError:
            return None
        return int(job_id) if job_id.isdecimal() else None

    def _read(self, name: str, limit: int = _SMALL) -> str | None:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(limit).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StagingFailed(f"{name} cannot be read: {error.strerror}") from error

    def read_log(self, stream: str, offset: int, limit: int) -> bytes:
        """What a stream holds from a byte offset on; empty when it does not exist yet."""
        try:
            with (self.path / LOG_FILES[stream]).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except OSError:
            return b""

    def carry_out(
        self,
        target: Path,
        bounds: Bounds,
        may_go_on: Callable[[], bool],
        made: Mapping[str, bytes] = _NOTHING,
    ) -> Carried:
        """Copy outputs, logs and trace to the new folder `target`, which appears whole or not.

        `made` are files that the bridge adds, by their names.

        The program can write to output/ alone, and may have left anything there: only plain files
        with one name are taken. Logs and trace are carried even when the outputs are too much.

        `may_go_on` is asked just before: whether nobody else carries the same.

        Raises:
            StagingFailed
        """
        if not self.exists():
            raise StagingFailed("the context is missing")
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            partial.mkdir(mode=0o750, parents=True)
            output = self._carry_output(partial, bounds)
            files = list(output.files)
            ignored = list(output.ignored)
            for name in (*LOG_FILES.values(), TRACE):
                self._carry_file(name, partial, files, ignored)
            files += [_write(partial / name, content) for name, content in made.items()]
            if not may_go_on():
                raise StagingFailed("another Runner carries the outputs")
            if target.exists():
                # Of an earlier attempt that ended before it was recorded; the context is whole.
                earlier = target.with_name(f"{partial.name}.earlier")
                target.rename(earlier)
                partial.rename(target)
                shutil.rmtree(earlier)
            else:
                partial.rename(target)
        except OSError as error:
            raise StagingFailed(f"outputs could not be carried: {error.strerror}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Carried(tuple(files), tuple(ignored), output.too_much)

    def _carry_output(self, partial: Path, bounds: Bounds) -> Carried:
        try:
            with suppress(FileNotFoundError):
                # The program may have shut its own door.
                (self.path / "output").chmod(0o700)
            with opened(self.path, "output") as output:
                copied, ignored = copy_tree(output, partial / "output", bounds)
        except FileNotFoundError:
            return Carried((), ())
        except NotPlain as error:
            return Carried((), (Ignored("output", str(error)),))
        except TooMuch as error:
            shutil.rmtree(partial / "output", ignore_errors=True)
            return Carried((), (), str(error))
        named = (Copied(f"output/{c.path}", c.size_bytes, c.sha256) for c in copied)
        return Carried(tuple(named), tuple(ignored))

    def _carry_file(
        self, name: str, partial: Path, files: list[Copied], ignored: list[Ignored]
    ) -> None:
        try:
            with opened(self.path, name) as descriptor:
                size = os.fstat(descriptor).st_size
                # slurmstepd may still be adding its last words.
                limit = size + GROWTH_BYTES
                files.append(copy_file(descriptor, partial / name, limit, name=name))
        except FileNotFoundError:
            pass
        except TooMuch as error:
            raise StagingFailed(f"{name} is still being written: {error}") from error
        except (NotPlain, PermissionError):
            ignored.append(Ignored(name, "cannot be read"))

    def remove(self) -> None:
        """Destroy the context, whatever the program has made in it.

        Raises:
            StagingFailed
        """
        try:
            if self.exists():
                _remove(self.path)
        except OSError as error:
            raise StagingFailed(f"the context cannot be removed: {error.strerror}") from error


def _write(path: Path, content: bytes) -> Copied:
    path.write_bytes(content)
    path.chmod(0o640)
    return Copied(path.name, len(content), hashlib.sha256(content).hexdigest())


def _remove(root: Path) -> None:
    """Remove a tree without recursion: a program can nest folders deeper than any stack.

    Every folder is moved up to `root` first, so that no path is ever long.
    """
    root.chmod(0o700)
    folders = [root]
    token = secrets.token_hex(4)
    moved = 0
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in found:
            if is_folder:
                # Most are empty by now, or always were.
                with suppress(OSError):
                    Path(path).rmdir()
                    continue
                moved += 1
                up = root / f".removed-{token}-{moved}"
                Path(path).chmod(0o700)
                Path(path).rename(up)
                folders.append(up)
            else:
                Path(path).unlink()
        if folder != root:
            folder.rmdir()
    root.rmdir()


def _less(bounds: Bounds, copied: Sequence[Copied]) -> Bounds:
    return Bounds(bounds.bytes - sum(entry.size_bytes for entry in copied), bounds.files)
