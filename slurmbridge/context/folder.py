"""One Process's Compute Context on the shared file system."""

import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
_SMALL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Left:
    """What a job's script left for the bridge."""

    exit_code: int | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Carried:
    """What was carried out of a context."""

    files: tuple[Copied, ...]
    ignored: tuple[Ignored, ...]
    # Why nothing of output/ was carried, when it was too much.
    too_much: str | None = None


class ContextFolder:
    """The folder of one Process. `words` turns a list into the text that the script reads."""

    def __init__(self, root: Path, process_id: str) -> None:
        self.path = root / process_id

    def make(self, command: bytes, environment: bytes) -> None:
        """Begin anew: what an earlier, unfinished preparation left is removed.

        Raises:
            StagingFailed
        """
        try:
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                self.remove()
                self.path.mkdir(mode=0o700)
            (self.path / "input").mkdir(mode=0o750)
            (self.path / "code").mkdir(mode=0o750)
            (self.path / "command.list").write_bytes(command)
            (self.path / "environment.list").write_bytes(environment)
        except OSError as error:
            raise StagingFailed(f"the context cannot be made: {error.strerror}") from error

    def stage(self, spec: ProcessSpec, stores: Mapping[str, Path], bounds: Bounds) -> list[Copied]:
        """Copy code and inputs in.

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
        if not stores[store].is_dir():
            raise StagingFailed(f"the folder of the store {store} is missing")
        try:
            with opened(stores[store], path) as descriptor:
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    copied, ignored = copy_tree(descriptor, self.path / target, bounds)
                    if ignored:
                        raise NotPlain(f"it holds {ignored[0]}")
                    return copied
                if target == "code":
                    (self.path / "code").mkdir(mode=0o750)
                    target = f"code/{path.rpartition('/')[2]}"
                return [copy_file(descriptor, self.path / target, bounds.bytes, name=path)]
        except FileNotFoundError:
            raise InvalidProcess(f"{source} does not exist") from None
        except (NotPlain, TooMuch) as error:
            raise InvalidProcess(f"{source} cannot be staged: {error}") from None
        except PermissionError:
            raise InvalidProcess(f"{source} cannot be read by the bridge") from None
        except OSError as error:
            raise StagingFailed(f"{source} could not be staged: {error.strerror}") from error

    def left(self) -> Left:
        """What the script left. Only the bridge and its job can write these files."""
        code = self._read("exit_code")
        return Left(
            exit_code=int(code) if code and code.strip().isdigit() else None,
            refused=self._read("refused"),
        )

    def _read(self, name: str) -> str | None:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(_SMALL).decode(errors="replace").strip()
        except FileNotFoundError:
            return None

    def read_log(self, stream: str, offset: int, limit: int) -> bytes:
        """What a stream holds from a byte offset on; empty when it does not exist yet."""
        try:
            with (self.path / LOG_FILES[stream]).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def carry_out(self, target: Path, bounds: Bounds) -> Carried:
        """Copy outputs, logs and trace to the new folder `target`, which appears whole or not.

        The program can write to output/ alone, and may have left anything there: only plain files
        with one name are taken. Logs and trace are carried even when the outputs are too much.

        Raises:
            StagingFailed
        """
        partial = target.with_name(f".{target.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o750, parents=True)
            output = self._carry_output(partial, bounds)
            files = list(output.files)
            for name in (*LOG_FILES.values(), "trace.zst"):
                files += self._carry_file(name, partial)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        except OSError as error:
            raise StagingFailed(f"outputs could not be carried: {error.strerror}") from error
        return Carried(tuple(files), output.ignored, output.too_much)

    def _carry_output(self, partial: Path, bounds: Bounds) -> Carried:
        try:
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

    def _carry_file(self, name: str, partial: Path) -> list[Copied]:
        try:
            with opened(self.path, name) as descriptor:
                size = os.fstat(descriptor).st_size
                return [copy_file(descriptor, partial / name, size, name=name)]
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Destroy the context. Folders that the program made unreadable are opened first.

        Raises:
            StagingFailed
        """

        def unlock(function: Callable[[str], object], path: str, error: BaseException) -> None:
            if isinstance(error, FileNotFoundError):
                return
            if path != str(self.path):
                os.chmod(os.path.dirname(path), 0o700)  # noqa: PTH101, PTH120
            if not os.path.islink(path) and os.path.isdir(path):  # noqa: PTH114, PTH112
                os.chmod(path, 0o700)  # noqa: PTH101
                _rmtree(Path(path), unlock)
            else:
                function(path)

        try:
            _rmtree(self.path, unlock)
        except OSError as error:
            raise StagingFailed(f"the context cannot be removed: {error.strerror}") from error


def _rmtree(path: Path, on_error: Callable[..., None]) -> None:
    def with_exception(function: Callable[[str], object], name: str, info: object) -> None:
        error = info[1] if isinstance(info, tuple) else info
        assert isinstance(error, BaseException)
        on_error(function, name, error)

    # `onerror` is deprecated from 3.12 on, `onexc` unknown before it.
    import sys

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=with_exception)
    else:
        shutil.rmtree(path, onerror=with_exception)


def _less(bounds: Bounds, copied: Sequence[Copied]) -> Bounds:
    return Bounds(bounds.bytes - sum(entry.size_bytes for entry in copied), bounds.files)
