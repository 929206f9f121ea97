"""Compute Contexts: what is carried out, and that nothing is left of one."""

import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.context.carrying import MANIFEST, Carried, FolderPlace, Load, carry_out
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.tree import DEPTH_LIMIT, Bounds
from slurmbridge.errors import StagingFailed
from slurmbridge.shell import LocalFiles

ROOMY = Bounds(1 << 20, 1000)


@pytest.fixture
def output(folder: ContextFolder) -> Path:
    (folder.path / "output").mkdir()
    return folder.path / "output"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "results/here/p1"


def carry(
    folder: ContextFolder,
    target: Path,
    bounds: Bounds = ROOMY,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Carried:
    place = FolderPlace("results:here/p1", target)
    return carry_out(folder, place, Load(bounds), may_go_on)


def contents(root: Path) -> dict[str, bytes]:
    """All files but the manifest."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def nested(root: Path, depth: int, name: str = "d") -> None:
    """Folders in each other, deeper than any path can say."""
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("far", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


# --- out ---


def test_plain_files_are_carried_with_size_and_digest(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "sub/empty").mkdir(parents=True)
    (output / "sub/a.csv").write_bytes(b"abc")
    (output / "ü").write_bytes(b"")
    carried = carry(folder, target)
    assert carried.ignored == ()
    assert {(file.path, file.size_bytes, file.sha256) for file in carried.files} == {
        ("output/sub/a.csv", 3, hashlib.sha256(b"abc").hexdigest()),
        ("output/ü", 0, hashlib.sha256(b"").hexdigest()),
    }
    assert contents(target) == {"output/sub/a.csv": b"abc", "output/ü": b""}


def test_logs_and_trace_are_carried_beside_the_outputs(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    for name in ("stdout.txt", "stderr.txt", "job.log", "trace.zst"):
        (folder.path / name).write_text(name)
    carried = carry(folder, target)
    names = {"stdout.txt", "stderr.txt", "job.log", "trace.zst"}
    assert {file.path for file in carried.files} == names
    assert set(contents(target)) == names


def test_logs_are_carried_whatever_the_bounds_of_the_outputs(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (folder.path / "stdout.txt").write_bytes(b"x" * 100)
    carry(folder, target, Bounds(0, 0))
    assert (target / "stdout.txt").stat().st_size == 100


def test_of_the_context_itself_nothing_is_carried(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (folder.path / "input/secret").write_text("secret")
    carry(folder, target)
    assert contents(target) == {}


def test_what_is_not_plain_is_ignored_and_named(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (folder.path / "input/secret").write_text("secret")
    (output / "plain").write_text("plain")
    (output / "link").symlink_to(folder.path / "input/secret")
    (output / "folder-link").symlink_to(folder.path / "input")
    (output / "hard").hardlink_to(folder.path / "input/secret")
    (output / "dangling").symlink_to("/nowhere")
    os.mkfifo(output / "pipe")
    (output / os.fsdecode(b"\xff")).write_text("x")
    (output / "\x1b[31m\n").symlink_to("nowhere")
    (output / os.fsdecode(b"dir\xfe")).mkdir()
    (output / os.fsdecode(b"dir\xfe/inner")).write_text("x")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(output)
        server.bind("socket")
        os.chdir(here)
    carried = carry(folder, target)
    assert {str(entry) for entry in carried.ignored} == {
        "link: not a plain file",
        "folder-link: not a plain file",
        "dangling: not a plain file",
        "hard: has a second name (hard link)",
        "pipe: not a plain file",
        "socket: not a plain file",
        r"\x1b[31m\n: not a plain file",
        r"\udcff: its name is not UTF-8",
        r"dir\udcfe: its name is not UTF-8",
    }
    assert contents(target) == {"output/plain": b"plain"}


def test_what_cannot_be_read_is_ignored_and_named(
    folder: ContextFolder, output: Path, target: Path, unprivileged: None
) -> None:
    (output / "open").mkdir()
    (output / "open/a").write_text("a")
    (output / "open/locked").touch(mode=0o000)
    (output / "shut").mkdir()
    (output / "shut/b").write_text("b")
    (output / "shut").chmod(0o000)
    try:
        carried = carry(folder, target)
    finally:
        (output / "shut").chmod(0o700)
    assert {str(entry) for entry in carried.ignored} == {
        "open/locked: cannot be read",
        "shut: cannot be read",
    }
    assert contents(target) == {"output/open/a": b"a"}


def test_a_tree_that_is_too_deep_is_ignored_from_there_on(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    deep = output.joinpath(*["d"] * (DEPTH_LIMIT + 5))
    deep.mkdir(parents=True)
    (deep / "too-deep").write_text("x")
    (deep.parents[5] / "deep-enough").write_text("x")
    carried = carry(folder, target)
    assert [Path(file.path).name for file in carried.files] == ["deep-enough"]
    assert [entry.why for entry in carried.ignored] == [f"deeper than {DEPTH_LIMIT} folders"]


# A program can make these names step by step; no path of that length can be opened at once.
def test_a_tree_whose_names_are_longer_than_a_path_is_no_obstacle(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "plain").write_text("plain")
    nested(output, 20, "x" * 250)
    carried = carry(folder, target)
    assert [file.path for file in carried.files] == ["output/plain"]
    assert len(carried.ignored) == 1


def test_an_output_folder_that_is_a_link_is_not_followed(
    folder: ContextFolder, target: Path
) -> None:
    (folder.path / "input/secret").write_text("secret")
    (folder.path / "output").symlink_to(folder.path / "input")
    carried = carry(folder, target)
    assert carried.files == ()
    assert [entry.path for entry in carried.ignored] == ["output"]
    assert contents(target) == {}


def test_a_job_that_never_began_leaves_an_empty_folder(folder: ContextFolder, target: Path) -> None:
    carried = carry(folder, target)
    assert (carried.files, carried.ignored) == ((), ())
    assert target.is_dir()


@pytest.mark.parametrize("bounds", [Bounds(9, 100), Bounds(100, 1)])
def test_of_outputs_above_a_bound_nothing_is_carried_but_the_logs_are(
    folder: ContextFolder, output: Path, target: Path, bounds: Bounds
) -> None:
    (output / "a").write_bytes(b"12345")
    (output / "b").write_bytes(b"12345")
    (folder.path / "stdout.txt").write_text("printed")
    carried = carry(folder, target, bounds)
    assert carried.too_much
    assert [file.path for file in carried.files] == ["stdout.txt"]
    assert contents(target.parent) == {"p1/stdout.txt": b"printed"}


def test_more_links_than_files_are_allowed_are_too_much(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    for name in "abc":
        (output / name).symlink_to("nowhere")
    carried = carry(folder, target, Bounds(100, 2))
    assert carried.too_much
    assert len(carried.ignored) <= 2


def test_more_folders_than_files_are_allowed_are_too_much(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    for name in "abc":
        (output / name).mkdir()
    assert carry(folder, target, Bounds(100, 3)).too_much is None
    shutil.rmtree(target)
    assert "folders" in (carry(folder, target, Bounds(100, 2)).too_much or "")


def test_of_a_flood_of_names_no_more_are_read_than_can_be_allowed(
    folder: ContextFolder, output: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (output / str(number)).touch()
    seen: list[str] = []

    def fsencode(name: str) -> bytes:
        seen.append(name)
        return name.encode()

    monkeypatch.setattr("slurmbridge.context.tree.os.fsencode", fsencode)
    assert carry(folder, target, Bounds(100, 2)).too_much
    assert len(seen) < 10


def test_names_that_would_flood_the_database_are_too_much(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    for number in range(10):
        # Each letter takes six in JSON.
        (output / ("\x01" * 100 + str(number))).touch()
    assert "paths" in (carry(folder, target, Bounds(100, 10)).too_much or "")


def test_outputs_that_just_fit_are_carried(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "a").write_bytes(b"12345")
    (output / "b").write_bytes(b"12345")
    assert len(carry(folder, target, Bounds(10, 2)).files) == 2


def test_what_an_earlier_attempt_left_is_replaced(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "a").write_text("a")
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    carry(folder, target)
    assert contents(target) == {"output/a": b"a"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_a_killed_runner_had_begun_is_removed_and_of_others_nothing(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "a").write_bytes(b"a")
    FolderPlace("results:here/p1", target).begin()
    other = FolderPlace("results:here/p11", target.with_name("p11"))
    other.begin()
    assert len(list(target.parent.iterdir())) == 2
    carry(folder, target)
    left = {path.name[:4] for path in target.parent.iterdir()}
    assert left == {"p1", ".p11"}


def test_who_may_not_go_on_changes_nothing(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    (output / "a").write_text("late")
    target.mkdir(parents=True)
    (target / "a").write_text("good")
    asked: list[list[str]] = []

    def may_go_on() -> bool:
        asked.append([path.name for path in target.iterdir()])
        return False

    with pytest.raises(StagingFailed, match="another Runner"):
        carry(folder, target, ROOMY, may_go_on)
    assert asked == [["a"]]
    assert contents(target) == {"a": b"good"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_is_missing_is_not_carried_as_nothing(folder: ContextFolder, target: Path) -> None:
    folder.remove()
    target.mkdir(parents=True)
    (target / "a").write_text("good")
    with pytest.raises(StagingFailed, match="the context is missing"):
        carry(folder, target)
    assert contents(target.parent) == {"p1/a": b"good"}


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o300, 0o500])
def test_an_output_folder_that_the_program_has_shut_is_carried(
    mode: int, folder: ContextFolder, output: Path, target: Path, unprivileged: None
) -> None:
    (output / "a").write_text("a")
    output.chmod(mode)
    assert [file.path for file in carry(folder, target).files] == ["output/a"]
    assert contents(target) == {"output/a": b"a"}


@pytest.mark.parametrize("name", ["stdout.txt", "stderr.txt", "job.log", "trace.zst"])
def test_a_log_that_cannot_be_read_keeps_no_outputs_back(
    name: str, folder: ContextFolder, output: Path, target: Path, unprivileged: None
) -> None:
    (output / "a").write_text("a")
    (folder.path / name).touch(mode=0o000)
    assert [file.path for file in carry(folder, target).files] == ["output/a"]


def test_a_failure_of_any_kind_leaves_no_copy_behind(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    def broken() -> bool:
        raise RuntimeError

    (output / "a").write_text("a")
    with pytest.raises(RuntimeError):
        carry(folder, target, ROOMY, broken)
    assert list(target.parent.iterdir()) == []


def test_carrying_twice_gives_the_same(folder: ContextFolder, output: Path, target: Path) -> None:
    (output / "a").write_text("a")
    assert carry(folder, target) == carry(folder, target)


def test_a_store_that_cannot_be_written_to_is_the_sites_to_put_right(
    folder: ContextFolder, output: Path, target: Path
) -> None:
    target.parent.parent.rmdir()
    target.parent.parent.write_text("a file where the store was")
    with pytest.raises(StagingFailed, match="outputs could not be carried"):
        carry(folder, target)


# --- removed ---


def test_a_context_is_destroyed_whole(folder: ContextFolder, output: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    (output / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(output / "pipe")
    folder.remove()
    assert not folder.path.exists()
    assert (tmp_path / "outside").read_text() == "kept"


def test_a_context_that_is_gone_is_destroyed(tmp_path: Path) -> None:
    Contexts(LocalFiles(), tmp_path).of("p1").remove()
    assert list(tmp_path.iterdir()) == []


def test_what_was_fetched_of_every_pod_goes_with_the_context(tmp_path: Path) -> None:
    there, spool = tmp_path / "there", tmp_path / "spool"
    spool.mkdir()
    contexts = Contexts(LocalFiles(), there, spool)
    for name in ("p1", "p10"):
        folder = there / name
        (folder / "pods/sb2").mkdir(parents=True)
        for trace in (folder / "trace.zst", folder / "pods/sb2/trace.zst"):
            trace.write_bytes(b"x")
        fetched = contexts.of(name).traces(100, pods=2)
        assert [trace.path.read_bytes() for trace in fetched] == [b"x", b"x"]
    contexts.of("p1").remove()
    assert sorted(path.name for path in spool.iterdir()) == ["p10.sb2.zst", "p10.zst"]


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400, 0o500, 0o600, 0o100])
def test_folders_that_the_program_has_locked_are_destroyed(
    mode: int, folder: ContextFolder, output: Path, unprivileged: None
) -> None:
    (output / "locked/inner").mkdir(parents=True)
    (output / "locked/inner/a").touch(mode=0o000)
    (output / "locked").chmod(mode)
    folder.remove()
    assert not folder.path.exists()


def test_locked_folders_within_locked_folders_are_destroyed(
    folder: ContextFolder, output: Path, unprivileged: None
) -> None:
    (output / "locked/inner").mkdir(parents=True)
    (output / "locked/inner/a").touch()
    (output / "locked/inner").chmod(0o000)
    (output / "locked").chmod(0o000)
    folder.remove()
    assert not folder.path.exists()


@pytest.mark.parametrize(("name", "depth"), [("d", 3000), ("x" * 250, 100)])
def test_folders_nested_deeper_than_any_stack_or_path_are_destroyed(
    name: str, depth: int, folder: ContextFolder, output: Path
) -> None:
    nested(output, depth, name)
    folder.remove()
    assert not folder.path.exists()


def test_a_removal_that_was_interrupted_is_finished(folder: ContextFolder) -> None:
    for number in range(1, 9):
        (folder.path / f".removed-{number}/inner").mkdir(parents=True)
        (folder.path / f".removed-{number}/a").touch()
    folder.remove()
    assert not folder.path.exists()


def test_a_link_to_a_folder_is_removed_and_not_what_it_leads_to(
    folder: ContextFolder, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir(mode=0o750)
    (tmp_path / "outside/kept").touch()
    (output / "link").symlink_to(tmp_path / "outside")
    folder.remove()
    assert (tmp_path / "outside/kept").exists()
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o750


def test_a_job_that_comes_while_a_context_is_destroyed_finds_none(
    folder: ContextFolder, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could take a context from which the claim of the job before has gone already."""
    (folder.path / "claim").symlink_to("41")
    seen = []
    remove_tree = LocalFiles.remove_tree

    def look_first(files: LocalFiles, path: Path) -> None:
        seen.append((folder.path.exists(), (path / "claim").is_symlink()))
        remove_tree(files, path)

    monkeypatch.setattr(LocalFiles, "remove_tree", look_first)
    folder.remove()
    assert seen == [(False, True)]
    assert list(folder.path.parent.iterdir()) == []


def test_what_an_interrupted_destruction_left_is_destroyed_with_the_context(
    folder: ContextFolder, output: Path, tmp_path: Path
) -> None:
    contexts = Contexts(LocalFiles(), folder.path.parent)
    folder.path.rename(folder.path.with_name(".p1.gone"))
    assert contexts.names() == ["p1"]
    folder.make(b"", b"", b"")
    assert contexts.names() == ["p1"]
    folder.remove()
    assert list(folder.path.parent.iterdir()) == []
    folder.make(b"", b"", b"")
    folder.path.rename(folder.path.with_name(".p1.gone"))
    folder.remove()
    assert list(folder.path.parent.iterdir()) == []
