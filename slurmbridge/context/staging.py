"""How code and inputs come into a context: what is asked for, looked at, bounded and copied."""

import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from slurmbridge.context.archives import unpack
from slurmbridge.context.cache import Cache
from slurmbridge.context.copying import Copying, Pace, copy_file, copy_one, copy_tree
from slurmbridge.context.digests import tree_sha256
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Below, Bounds, Copied, Spot, TooMuch, seen
from slurmbridge.errors import InvalidProcess, StagingFailed, StoreForbids
from slurmbridge.shell import Entry, Files, Kind, LocalFiles, NotPlain
from slurmbridge.spec import ARCHIVES, Code, Input, ProcessSpec

_HERE = LocalFiles()
# A list of requirements, and a byte more than is taken.
_BESIDE = 256 * 1024 + 1


class Staging:
    """Copying from the Data Stores of `origins` into the folder of one context.

    `room` is a folder of this host, for what has to be looked at before it is staged. It is made
    when it is needed, and removed.
    """

    def __init__(
        self, files: Files, into: Path, room: Path, cache: Cache | None, origins: Origins
    ) -> None:
        self._files = files
        self._into = into
        self._room = room
        self._cache = cache
        self._origins = origins

    def all_of(self, spec: ProcessSpec, bounds: Bounds) -> list[Copied]:
        """Copy code and inputs in. As `ContextFolder.stage`."""
        copied: list[Copied] = []
        if spec.code and spec.code.is_packed:
            copied += self._stage_packed(spec.code, bounds)
        elif spec.code:
            copied += self._stage_one(spec.code, "code", bounds)
        for entry in spec.inputs:
            copied += self._stage_input(entry, _less(bounds, copied))
        return copied

    def _make_folder(self, name: str) -> None:
        try:
            self._files.make_folder(self._into / name, mode=0o750, parents=True)
        except OSError as error:
            raise StagingFailed(f"/{name} cannot be made: {error.strerror}") from error

    def _stage_input(self, entry: Input, bounds: Bounds) -> list[Copied]:
        target = f"input/{entry.name}"
        self._make_folder(target.rpartition("/")[0])
        return self._stage_one(entry, target, bounds)

    def _stage_one(self, asked: Code | Input, target: str, bounds: Bounds) -> list[Copied]:
        copied, found = self._copied(asked.source, target, bounds)
        _must_be_declared(asked, found)
        return copied

    def beside(self, code: Code, name: str, bounds: Bounds) -> bytes | None:
        """A small file of packed code. As `ContextFolder.beside`."""
        with self._unpacked(code, bounds) as source:
            spot = source.below(name)
            try:
                if spot.look().kind is not Kind.FILE:
                    return None
            except FileNotFoundError:
                return None
            with spot.tree.open(spot.path) as file:
                return file.read(_BESIDE)

    def _stage_packed(self, code: Code, bounds: Bounds) -> list[Copied]:
        with self._unpacked(code, bounds) as source:
            copied = self._stage_folder(source, "code", bounds, self._origins.pace)
        if code.commit:
            _must_be_declared(code, below_sha256(copied, "code"))
        return copied

    @contextmanager
    def _unpacked(self, code: Code, bounds: Bounds) -> Generator[Spot]:
        """On this host, and then staged as any folder: what it holds is checked twice."""
        room = self._room
        with _explained(code.source):
            shutil.rmtree(room, ignore_errors=True)
            room.mkdir(mode=0o700, parents=True)
            try:
                if code.commit:
                    assert self._origins.mirrors is not None, (
                        "checked when the Process was accepted"
                    )
                    packed = self._origins.mirrors.pack(
                        code.source, code.commit, code.path, room, bounds
                    )
                    folder = ""
                else:
                    packed = self._fetch_archive(code, room, bounds)
                    folder = code.path or ""
                unpack(packed, packed.name, room / "all", bounds)
                source = Spot(Below(_HERE, room / "all"), folder)
                if not _is_folder(source):
                    raise NotPlain(f"it holds no folder {folder}")
                yield source
            finally:
                shutil.rmtree(room, ignore_errors=True)

    def _fetch_archive(self, code: Code, room: Path, bounds: Bounds) -> Path:
        store, _, path = code.source.partition(":")
        place = self._origins.find(store)
        spot = Spot(place.tree, path)
        found = spot.look()
        if found.kind is not Kind.FILE:
            raise NotPlain("it is not a file")
        if found.size_bytes > bounds.bytes:
            raise TooMuch(f"{found.size_bytes} bytes, {bounds.bytes} are allowed")
        file = replace(seen(found, path), executable=False)
        target = room / f"packed{next(end for end in ARCHIVES if path.endswith(end))}"
        packed = copy_file(spot, _HERE, target, bounds.bytes, file, place.pace)
        _must_be_declared(code, packed.sha256)
        return target

    def _copied(self, source: str, target: str, bounds: Bounds) -> tuple[list[Copied], str]:
        """What was copied, and the digest of it all."""
        store, _, path = source.partition(":")
        place = self._origins.find(store)
        spot = Spot(place.tree, path)
        with _explained(source):
            found = spot.look()
            copying: Copying = copy_one
            if self._cache and target != "code":
                copying = self._cache.copying(store)
            if found.kind is Kind.FOLDER:
                copied = self._stage_folder(spot, target, bounds, place.pace, copying)
                return copied, below_sha256(copied, target)
            file = self._stage_file(spot, found, target, bounds, place.pace, copying)
            return [file], file.sha256

    def _stage_folder(
        self, spot: Spot, target: str, bounds: Bounds, pace: Pace, copying: Copying = copy_one
    ) -> list[Copied]:
        copied, ignored = copy_tree(
            spot,
            self._files,
            self._into / target,
            bounds,
            programs=target == "code",
            pace=pace,
            copying=copying,
        )
        if ignored:
            raise NotPlain(f"it holds {ignored[0]}")
        return [replace(file, path=f"{target}/{file.path}") for file in copied]

    def _stage_file(
        self, spot: Spot, found: Entry, target: str, bounds: Bounds, pace: Pace, copying: Copying
    ) -> Copied:
        if found.size_bytes > bounds.bytes:
            raise TooMuch(f"{found.size_bytes} bytes, {bounds.bytes} are allowed")
        executable = False
        if target == "code":
            target = f"code/{spot.path.rpartition('/')[2]}"
            executable = found.executable
        file = replace(seen(found, target), executable=executable)
        pace.watch.expect(1, found.size_bytes)
        into = self._into / target
        return copy_file(spot, self._files, into, bounds.bytes, file, pace, copying)


@contextmanager
def _explained(source: str) -> Generator[None]:
    """Say what went wrong with a source, and whether it may pass."""
    try:
        yield
    except FileNotFoundError:
        raise InvalidProcess(f"{source} does not exist") from None
    except (NotPlain, TooMuch, StoreForbids) as error:
        raise InvalidProcess(f"{source} cannot be staged: {error}") from None
    except PermissionError:
        raise InvalidProcess(f"{source} cannot be read by the bridge") from None
    except OSError as error:
        raise StagingFailed(f"{source} could not be staged: {error.strerror}") from error


def _is_folder(spot: Spot) -> bool:
    try:
        return spot.look().kind is Kind.FOLDER
    except FileNotFoundError:
        return False


def _must_be_declared(asked: Code | Input, found: str) -> None:
    if asked.sha256 not in {None, found}:
        raise InvalidProcess(
            f"{asked.source} is not what was declared: its SHA-256 is {found}, and "
            f"{asked.sha256} was declared"
        )


def _less(bounds: Bounds, copied: Sequence[Copied]) -> Bounds:
    return Bounds(bounds.bytes - sum(entry.size_bytes for entry in copied), bounds.files)


def below_sha256(copied: Sequence[Copied], folder: str) -> str:
    """The digest of a folder, of what was copied into it."""
    prefix = f"{folder}/"
    inside = [file for file in copied if file.path.startswith(prefix)]
    return tree_sha256((file.path.removeprefix(prefix), file.sha256) for file in inside)
