"""The sealing helpers: built by a real compiler, once for each state of their source."""

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.container import helpers
from slurmbridge.container.helpers import FLAGS, NAMES, SOURCES
from slurmbridge.errors import HelpersMissing
from slurmbridge.model import Helpers
from slurmbridge.shell import Command, Reply
from tests.support.sealing import HelperList, builder
from tests.support.specs import START

DYNAMIC_LINKER = 3  # PT_INTERP


def segments(path: Path) -> set[int]:
    """The types of the segments of a 64-bit little-endian ELF file."""
    content = path.read_bytes()
    assert content[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    return {struct.unpack_from("<I", content, start + n * size)[0] for n in range(count)}


class Compiler:
    """A shell with a compiler that writes its input down, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.complaint = ""
        self.before: Callable[[], object] = lambda: None

    def run(self, command: Command) -> Reply:
        """See Shell.run."""
        self.before()
        self.calls.append(command.argv)
        target, source = command.argv[-2:]
        if not self.complaint:
            Path(target).write_bytes(b"built of " + Path(source).read_bytes())
        return Reply(1 if self.complaint else 0, "", self.complaint)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.c").write_text(name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


@pytest.fixture
def records() -> HelperList:
    return HelperList()


@pytest.fixture
def ensure(
    folder: Path, records: HelperList, sources: Path, compiler: Compiler
) -> Callable[[], Helpers]:
    return builder(folder, records, sources=sources, shell=compiler).ensure


# --- with the compiler of this host ---


@pytest.mark.parametrize("name", NAMES)
def test_a_helper_is_static_so_that_no_image_has_a_say_in_it(
    name: str, sealing_helpers: Helpers
) -> None:
    assert DYNAMIC_LINKER not in segments(Path(sealing_helpers.path) / name)
    assert DYNAMIC_LINKER in segments(Path("/bin/true").resolve())


@pytest.mark.parametrize(("name", "code"), [("sbseal", 78), ("sbprobe", 64)])
def test_a_helper_without_arguments_says_so_and_does_nothing(
    name: str, code: int, sealing_helpers: Helpers
) -> None:
    helper = Path(sealing_helpers.path) / name
    assert subprocess.run([helper], check=False, capture_output=True).returncode == code


def test_the_helpers_are_recorded_with_their_digests(sealing_helpers: Helpers) -> None:
    found = subprocess.run(
        ["sha256sum", *NAMES],
        check=True,
        capture_output=True,
        text=True,
        cwd=sealing_helpers.path,
    )
    assert found.stdout == (
        f"{sealing_helpers.sbseal_sha256}  sbseal\n{sealing_helpers.sbprobe_sha256}  sbprobe\n"
    )
    assert sealing_helpers.architecture == os.uname().machine
    assert sealing_helpers.built_at == START


def test_nobody_may_change_a_helper_that_is_built(sealing_helpers: Helpers) -> None:
    folder = Path(sealing_helpers.path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o550}


def test_a_compiler_that_does_not_like_the_source_is_quoted(folder: Path, sources: Path) -> None:
    (sources / "sbseal.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(HelpersMissing, match=r"(?s)^gcc failed on sbseal\.c: .*nothing") as caught:
        builder(folder, sources=sources).build()
    assert len(str(caught.value)) < 2100
    assert list(folder.iterdir()) == []


def test_a_compiler_that_is_missing_is_told_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "COMPILER", "no-such-compiler")
    with pytest.raises(HelpersMissing, match=r"no-such-compiler.*Install gcc"):
        builder(folder).build()
    assert list(folder.iterdir()) == []


# --- when they are built ---


def test_both_helpers_are_built_with_every_flag(
    ensure: Callable[[], Helpers], compiler: Compiler, sources: Path
) -> None:
    ensure()
    assert [argv[0] for argv in compiler.calls] == ["gcc", "gcc"]
    assert [argv[1 : 1 + len(FLAGS)] for argv in compiler.calls] == [FLAGS, FLAGS]
    assert [argv[-1] for argv in compiler.calls] == [f"{sources}/{name}.c" for name in NAMES]
    assert {"-static", "-Werror"} <= set(FLAGS)


def test_helpers_that_are_whole_are_not_built_again(
    ensure: Callable[[], Helpers], compiler: Compiler, records: HelperList
) -> None:
    first = ensure()
    assert ensure() == first
    assert len(compiler.calls) == 2
    assert records.all == [first]


@pytest.mark.parametrize("name", NAMES)
def test_helpers_are_built_again_when_their_source_has_changed(
    name: str, ensure: Callable[[], Helpers], sources: Path, records: HelperList
) -> None:
    first = ensure()
    (sources / f"{name}.c").write_text("changed")
    second = ensure()
    assert second.source_sha256 != first.source_sha256
    assert second.path != first.path
    assert (Path(second.path) / name).read_bytes() == b"built of changed"
    # Scripts that wait in Slurm were rendered with the earlier ones.
    assert (Path(first.path) / name).read_bytes() == f"built of {name}".encode()
    assert records.latest() == second


@pytest.mark.parametrize("name", NAMES)
def test_helpers_are_built_again_when_one_was_changed(
    name: str, ensure: Callable[[], Helpers]
) -> None:
    first = ensure()
    helper = Path(first.path) / name
    helper.chmod(0o700)
    helper.write_bytes(b"somebody else's")
    assert ensure() == first
    assert helper.read_bytes() == f"built of {name}".encode()


@pytest.mark.parametrize("name", NAMES)
def test_helpers_are_built_again_when_one_is_missing(
    name: str, ensure: Callable[[], Helpers]
) -> None:
    first = ensure()
    (Path(first.path) / name).unlink()
    assert ensure() == first
    assert (Path(first.path) / name).exists()


def test_helpers_are_built_again_when_their_folder_is_gone(ensure: Callable[[], Helpers]) -> None:
    first = ensure()
    shutil.rmtree(first.path)
    assert ensure() == first
    assert Path(first.path).is_dir()


def test_helpers_that_are_whole_are_no_problem_without_a_compiler(
    folder: Path, sources: Path, records: HelperList, compiler: Compiler
) -> None:
    made = builder(folder, records, sources=sources, shell=compiler)
    made.build()
    compiler.complaint = "no compiler"
    assert made.problem() is None
    (sources / "sbseal.c").write_text("changed")
    assert "libc's static library is missing" in str(made.problem())


@pytest.mark.parametrize(("said", "found"), [("/usr/lib/libc.a\n", True), ("libc.a\n", False)])
def test_a_compiler_without_a_static_library_is_a_problem(
    folder: Path, said: str, found: bool
) -> None:
    class Asked(Compiler):
        def run(self, command: Command) -> Reply:
            assert command.argv == ("gcc", "-print-file-name=libc.a")
            return Reply(0, said, "")

    problem = builder(folder, shell=Asked()).problem()
    assert (problem is None) is found
    assert list(folder.iterdir()) == []


def test_helpers_that_cannot_be_built_again_leave_the_earlier_ones(
    ensure: Callable[[], Helpers], compiler: Compiler, sources: Path, records: HelperList
) -> None:
    first = ensure()
    (sources / "sbprobe.c").write_text("changed")
    compiler.complaint = "out of ideas"
    with pytest.raises(HelpersMissing, match=r"^gcc failed on sbseal\.c: out of ideas$"):
        ensure()
    assert records.all == [first]
    assert sorted(path.name for path in Path(first.path).iterdir()) == sorted(NAMES)


def test_of_two_that_build_at_once_both_end_with_whole_helpers(
    folder: Path, sources: Path, compiler: Compiler
) -> None:
    other = builder(folder, sources=sources, shell=Compiler())

    def meanwhile() -> None:
        compiler.before = lambda: None
        other.build()

    compiler.before = meanwhile
    mine = builder(folder, sources=sources, shell=compiler).build()
    assert [path.name for path in folder.iterdir()] == [Path(mine.path).name]
    assert sorted(path.name for path in Path(mine.path).iterdir()) == sorted(NAMES)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HelpersMissing, match=r"cannot be built: .*nowhere.*No such file"):
        builder(tmp_path / "nowhere", shell=Compiler()).build()


def test_the_shipped_sources_are_where_they_are_looked_for() -> None:
    assert {f"{name}.c" for name in NAMES} <= {path.name for path in SOURCES.iterdir()}
