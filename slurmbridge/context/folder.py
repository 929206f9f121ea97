"""Compute Contexts: a folder for each Process, on whatever host its cluster's files are."""

import errno
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from slurmbridge.context.cache import Cache
from slurmbridge.context.copying import copy_file
from slurmbridge.context.left import LOG_FILES, TRACE, Left, Trace, pod_folder
from slurmbridge.context.origins import Origins
from slurmbridge.context.staging import Staging
from slurmbridge.context.tree import (
    Below,
    Bounds,
    Copied,
    Spot,
    TooMuch,
    plain,
)
from slurmbridge.errors import StagingFailed
from slurmbridge.shell import Files, Kind, LocalFiles, NotPlain
from slurmbridge.spec import Code, ProcessSpec

_OWNER = ".bridge"
_GONE = ".gone"
_HERE = LocalFiles()
_SMALL = 64 * 1024
# 256 variables with the longest names, and what the probe of a hostile image would print.
_FACTS = 1024 * 1024
GROWTH_BYTES = 1024 * 1024


class ContextTaken(Exception):
    """A job has taken the context."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} has taken the context")
        self.job_id = job_id


class Contexts:
    """Where the contexts of a cluster lie: below `root`, on the host of `files`.

    `spool` is a folder of this host for what has to be read here; None where the files are. `cache`
    keeps inputs that others may need, too.
    """

    def __init__(
        self, files: Files, root: Path, spool: Path | None = None, cache: Cache | None = None
    ) -> None:
        self.files = files
        self.root = root
        self.spool = spool
        self.cache = cache

    def of(self, process_id: str) -> "ContextFolder":
        """The context of a Process, be it there or not."""
        return ContextFolder(self, process_id)

    def owner(self, mark: str) -> str:
        """Who was the first to mark the folder as his own; with `mark`, if nobody was.

        Raises:
            StagingFailed
        """
        path = self.root / _OWNER
        try:
            with suppress(FileExistsError), self.files.create(path, mode=0o640) as file:
                file.write(mark.encode())
            return self.files.read(path, limit=_SMALL).decode(errors="replace").strip()
        except (OSError, NotPlain) as error:
            raise StagingFailed(f"{path} cannot be used: {error}") from error

    def names(self) -> list[str]:
        """Which contexts there are.

        Raises:
            StagingFailed
        """
        try:
            return sorted({process_of(entry.name) for entry in self.files.list(self.root)})
        except OSError as error:
            raise StagingFailed(f"the contexts cannot be listed: {error.strerror}") from error


class ContextFolder:
    """The folder of one Process."""

    def __init__(self, contexts: Contexts, process_id: str) -> None:
        self._files = contexts.files
        self._root = contexts.root
        self._spool = contexts.spool
        self._cache = contexts.cache
        self._id = process_id
        self.path = contexts.root / process_id

    def make(self, command: bytes, environment: bytes, expected_facts: bytes) -> None:
        """Begin anew: what an earlier, unfinished preparation left is removed.

        Raises:
            ContextTaken: a job works in it.
            StagingFailed
        """
        files = self._files
        try:
            try:
                files.make_folder(self.path, mode=0o700)
            except FileExistsError:
                if (job_id := self.taken_by()) is not None:
                    raise ContextTaken(job_id) from None
                self.remove()
                files.make_folder(self.path, mode=0o700)
            files.make_folder(self.path / "input", mode=0o750)
            files.make_folder(self.path / "code", mode=0o750)
            files.write(self.path / "command.list", command)
            files.write(self.path / "environment.list", environment)
            files.write(self.path / "facts.expected", expected_facts)
        except OSError as error:
            raise StagingFailed(f"the context cannot be made: {error.strerror}") from error

    def stage(self, spec: ProcessSpec, origins: Origins, bounds: Bounds) -> list[Copied]:
        """Copy code and inputs in; what was copied is named by its path in the context.

        Raises:
            InvalidProcess: something is not there, is no plain file or folder, or is too large.
            StagingFailed: it could not be read or written.
        """
        return self._staging(origins).all_of(spec, bounds)

    def beside(self, code: Code, name: str, origins: Origins, bounds: Bounds) -> bytes | None:
        """A small file of packed code, before anything is staged; None when there is none.

        Raises:
            InvalidProcess, StagingFailed: as `stage`.
        """
        return self._staging(origins).beside(code, name, bounds)

    def _staging(self, origins: Origins) -> Staging:
        return Staging(self._files, self.path, self._room, self._cache, origins)

    @property
    def _room(self) -> Path:
        """A folder of this host, for what has to be looked at before it is staged."""
        if self._spool is not None:
            return self._spool / f"{self._id}.room"
        return self.path / "room"

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
            output_full=self._read("output.full") is not None,
        )

    def exists(self) -> bool:
        """Whether there is such a context."""
        try:
            self._files.look(self.path)
        except OSError:
            return False
        return True

    def taken_by(self) -> int | None:
        """The job that has taken the context.

        Raises:
            StagingFailed: that cannot be found out.
        """
        try:
            job_id = self._files.read_link(self.path / "claim")
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EINVAL}:
                return None
            raise StagingFailed(f"the claim cannot be read: {error.strerror}") from error
        return int(job_id) if job_id.isdecimal() else None

    def _read(self, name: str, limit: int = _SMALL) -> str | None:
        try:
            return self._files.read(self.path / name, limit=limit).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except (OSError, NotPlain) as error:
            why = getattr(error, "strerror", None) or error
            raise StagingFailed(f"{name} cannot be read: {why}") from error

    def read_log(self, stream: str, offset: int, limit: int) -> bytes:
        """What a stream holds from a byte offset on; empty when it does not exist yet."""
        try:
            return self._files.read(self.path / LOG_FILES[stream], limit=limit, offset=offset)
        except (OSError, NotPlain):
            return b""

    def traces(self, limit: int, pods: int = 1) -> tuple[Trace, ...]:
        """The traces as files of this host, each of at most `limit` bytes.

        Of one pod, none when there is none. Of several, one for each: where it should be there may
        be nothing, and who reads it has to say so.

        Raises:
            StagingFailed
        """
        found = []
        for pod in range(1, pods + 1):
            path = self._trace(pod, limit)
            if path is None and pods > 1:
                path = self.path / f"{pod_folder(pod)}{TRACE}"
            if path is not None:
                cut = self._read(f"{pod_folder(pod)}trace.cut") is not None
                found.append(Trace(pod, path, cut))
        return tuple(found)

    def _trace(self, pod: int, limit: int) -> Path | None:
        name = f"{pod_folder(pod)}{TRACE}"
        if self._spool is None:
            path = self.path / name
            return path if path.exists() else None
        path = self._spool / (f"{self._id}.zst" if pod == 1 else f"{self._id}.sb{pod}.zst")
        if path.exists():
            return path
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            copy_file(self.spot(name), _HERE, partial, limit, plain(name))
            partial.rename(path)
        except FileNotFoundError:
            return None
        except (OSError, NotPlain, TooMuch) as error:
            raise StagingFailed(f"the trace cannot be fetched: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def spot(self, name: str) -> Spot:
        """A file or folder of it, for copying."""
        return Spot(Below(self._files, self.path), name)

    def size_of(self, name: str) -> int:
        """How large a file of it is. Raises FileNotFoundError."""
        return self._files.look(self.path / name).size_bytes

    def open_output(self) -> None:
        """Let the bridge into what the program has left, which may have shut its own door."""
        with suppress(FileNotFoundError):
            if self._files.look(self.path / "output").kind is Kind.FOLDER:
                self._files.set_mode(self.path / "output", 0o700)

    def remove(self) -> None:
        """Destroy the context, whatever the program has made in it.

        Raises:
            StagingFailed
        """
        try:
            if self._spool is not None:
                for trace in self._spool.glob(f"{self._id}.*zst"):
                    trace.unlink(missing_ok=True)
                shutil.rmtree(self._room, ignore_errors=True)
            self._move_away()
            with suppress(FileNotFoundError):
                self._files.remove_tree(self._gone)
        except OSError as error:
            raise StagingFailed(f"the context cannot be removed: {error.strerror}") from error

    @property
    def _gone(self) -> Path:
        return self.path.with_name(f".{self._id}{_GONE}")

    def _move_away(self) -> None:
        """From here on no job finds it: one that comes late would take what is half removed."""
        with suppress(FileNotFoundError):
            try:
                self._files.rename(self.path, self._gone)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                # What an earlier try has left.
                self._files.remove_tree(self._gone)
                self._files.rename(self.path, self._gone)


def process_of(name: str) -> str:
    """Whose context something is that lies where contexts are, be it moved away or not."""
    return name[1 : -len(_GONE)] if name.startswith(".") and name.endswith(_GONE) else name
