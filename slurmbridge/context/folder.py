"""Compute Contexts: a folder for each Process, on whatever host its cluster's files are."""

import errno
import hashlib
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from slurmbridge.context.copying import Pace, Reading, copy_file, copy_tree
from slurmbridge.context.tree import (
    Below,
    Bounds,
    Copied,
    Found,
    Ignored,
    Spot,
    TooMuch,
    plain,
    version_of,
)
from slurmbridge.errors import InvalidProcess, StagingFailed, StoreForbids
from slurmbridge.model import Input, ProcessSpec
from slurmbridge.shell import Entry, Files, Kind, LocalFiles, NotPlain

LOG_FILES = {"stdout": "stdout.txt", "stderr": "stderr.txt", "job": "job.log"}
TRACE = "trace.zst"
_HERE = LocalFiles()
_NOTHING: Mapping[str, bytes] = MappingProxyType({})
_NOWHERE: Mapping[str, Reading] = MappingProxyType({})
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


@dataclass(frozen=True, slots=True)
class _Places:
    """Where inputs come from."""

    folders: Mapping[str, Path]
    remote: Mapping[str, Reading]

    def find(self, store: str) -> Reading:
        """A store. Raises StagingFailed: it is not there, which may pass."""
        if store in self.remote:
            place = self.remote[store]
            try:
                place.tree.look("")
            except FileNotFoundError:
                raise StagingFailed(f"the store {store} is missing") from None
            return place
        if store not in self.folders or not self.folders[store].is_dir():
            raise StagingFailed(f"the folder of the store {store} is missing")
        return Reading(Below(_HERE, self.folders[store]))


class ContextTaken(Exception):
    """A job has taken the context."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} has taken the context")
        self.job_id = job_id


class Contexts:
    """Where the contexts of a cluster lie: below `root`, on the host of `files`.

    `spool` is a folder of this host for what has to be read here; None where the files are.
    """

    def __init__(self, files: Files, root: Path, spool: Path | None = None) -> None:
        self.files = files
        self.root = root
        self.spool = spool

    def of(self, process_id: str) -> "ContextFolder":
        """The context of a Process, be it there or not."""
        return ContextFolder(self, process_id)

    def names(self) -> list[str]:
        """Which contexts there are.

        Raises:
            StagingFailed
        """
        try:
            return [entry.name for entry in self.files.list(self.root)]
        except OSError as error:
            raise StagingFailed(f"the contexts cannot be listed: {error.strerror}") from error


class ContextFolder:
    """The folder of one Process."""

    def __init__(self, contexts: Contexts, process_id: str) -> None:
        self._files = contexts.files
        self._root = contexts.root
        self._spool = contexts.spool
        self._id = process_id
        self.path = contexts.root / process_id

    def _spot(self, name: str) -> Spot:
        return Spot(Below(self._files, self.path), name)

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

    def stage(
        self,
        spec: ProcessSpec,
        stores: Mapping[str, Path],
        bounds: Bounds,
        remote: Mapping[str, Reading] = _NOWHERE,
    ) -> list[Copied]:
        """Copy code and inputs in; what was copied is named by its path in the context. `remote`
        are the stores that are no folders of this host.

        Raises:
            InvalidProcess: something is not there, is no plain file or folder, or is too large.
            StagingFailed: it could not be read or written.
        """
        places = _Places(stores, remote)
        copied: list[Copied] = []
        if spec.code:
            copied += self._stage_one(spec.code.source, "code", places, bounds)
        for entry in spec.inputs:
            copied += self._stage_input(entry, places, _less(bounds, copied))
        return copied

    def _make_folder(self, name: str) -> None:
        try:
            self._files.make_folder(self.path / name, mode=0o750, parents=True)
        except OSError as error:
            raise StagingFailed(f"/{name} cannot be made: {error.strerror}") from error

    def _stage_input(self, entry: Input, places: "_Places", bounds: Bounds) -> list[Copied]:
        target = f"input/{entry.name}"
        self._make_folder(target.rpartition("/")[0])
        return self._stage_one(entry.source, target, places, bounds)

    def _stage_one(
        self, source: str, target: str, places: "_Places", bounds: Bounds
    ) -> list[Copied]:
        store, _, path = source.partition(":")
        place = places.find(store)
        spot = Spot(place.tree, path)
        try:
            found = spot.look()
            if found.kind is Kind.FOLDER:
                return self._stage_folder(spot, target, bounds, place.pace)
            return [self._stage_file(spot, found, target, bounds, place.pace)]
        except FileNotFoundError:
            raise InvalidProcess(f"{source} does not exist") from None
        except (NotPlain, TooMuch, StoreForbids) as error:
            raise InvalidProcess(f"{source} cannot be staged: {error}") from None
        except PermissionError:
            raise InvalidProcess(f"{source} cannot be read by the bridge") from None
        except OSError as error:
            raise StagingFailed(f"{source} could not be staged: {error.strerror}") from error

    def _stage_folder(self, spot: Spot, target: str, bounds: Bounds, pace: Pace) -> list[Copied]:
        into, programs = self.path / target, target == "code"
        copied, ignored = copy_tree(spot, self._files, into, bounds, programs=programs, pace=pace)
        if ignored:
            raise NotPlain(f"it holds {ignored[0]}")
        return [replace(file, path=f"{target}/{file.path}") for file in copied]

    def _stage_file(
        self, spot: Spot, found: Entry, target: str, bounds: Bounds, pace: Pace
    ) -> Copied:
        if found.size_bytes > bounds.bytes:
            raise TooMuch(f"{found.size_bytes} bytes, {bounds.bytes} are allowed")
        executable = False
        if target == "code":
            target = f"code/{spot.path.rpartition('/')[2]}"
            executable = found.executable
        file = Found(target, found.size_bytes, executable, version_of(found))
        return copy_file(spot, self._files, self.path / target, bounds.bytes, file, pace)

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

    def trace(self, limit: int) -> Path | None:
        """The trace, as a file of this host; None when there is none.

        Raises:
            StagingFailed
        """
        if self._spool is None:
            path = self.path / TRACE
            return path if path.exists() else None
        path = self._spool / f"{self._id}.zst"
        if path.exists():
            return path
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            copy_file(self._spot(TRACE), _HERE, partial, limit, plain(TRACE))
            partial.rename(path)
        except FileNotFoundError:
            return None
        except (OSError, NotPlain, TooMuch) as error:
            raise StagingFailed(f"the trace cannot be fetched: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

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
                if self._files.look(self.path / "output").kind is Kind.FOLDER:
                    self._files.set_mode(self.path / "output", 0o700)
            spot = self._spot("output")
            copied, ignored = copy_tree(spot, _HERE, partial / "output", bounds)
        except FileNotFoundError:
            return Carried((), ())
        except (NotPlain, NotADirectoryError):
            return Carried((), (Ignored("output", "it is no folder"),))
        except TooMuch as error:
            shutil.rmtree(partial / "output", ignore_errors=True)
            return Carried((), (), str(error))
        named = (Copied(f"output/{c.path}", c.size_bytes, c.sha256) for c in copied)
        return Carried(tuple(named), tuple(ignored))

    def _carry_file(
        self, name: str, partial: Path, files: list[Copied], ignored: list[Ignored]
    ) -> None:
        try:
            # slurmstepd may still be adding its last words.
            limit = self._files.look(self.path / name).size_bytes + GROWTH_BYTES
            files.append(copy_file(self._spot(name), _HERE, partial / name, limit, plain(name)))
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
            if self._spool is not None:
                (self._spool / f"{self._id}.zst").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._files.remove_tree(self.path)
        except OSError as error:
            raise StagingFailed(f"the context cannot be removed: {error.strerror}") from error


def _write(path: Path, content: bytes) -> Copied:
    path.write_bytes(content)
    path.chmod(0o640)
    return Copied(path.name, len(content), hashlib.sha256(content).hexdigest())


def _less(bounds: Bounds, copied: Sequence[Copied]) -> Bounds:
    return Bounds(bounds.bytes - sum(entry.size_bytes for entry in copied), bounds.files)
