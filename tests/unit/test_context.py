"""Compute Contexts: what is brought in, what is left there, and that nothing is ever followed."""

import gc
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from slurmbridge.context.copying import copy_file
from slurmbridge.context.folder import ContextFolder, Contexts, ContextTaken
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Below, Bounds, Spot, TooMuch, plain
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.shell import LocalFiles, NotPlain
from slurmbridge.spec import ProcessSpec
from tests.support.specs import spec

HERE = LocalFiles()
ROOMY = Bounds(1 << 20, 1000)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def wanting(*inputs: tuple[str, str | None], code: str | None = None) -> ProcessSpec:
    entries = [
        {"source": source, **({"target": target} if target else {})} for source, target in inputs
    ]
    return spec(inputs=entries, **({"code": {"source": code}} if code else {}))


def stage(folder: ContextFolder, data: Path, wanted: ProcessSpec, bounds: Bounds = ROOMY) -> None:
    folder.stage(wanted, Origins({"data": data}), bounds)


def refusal(folder: ContextFolder, data: Path, wanted: ProcessSpec, bounds: Bounds = ROOMY) -> str:
    with pytest.raises(InvalidProcess) as caught:
        stage(folder, data, wanted, bounds)
    return str(caught.value)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


# --- in ---


def test_a_new_context_holds_what_the_script_reads_and_is_its_owners_alone(
    folder: ContextFolder,
) -> None:
    assert (folder.path / "command.list").read_bytes() == b"true\0"
    assert (folder.path / "environment.list").read_bytes() == b"A=1\0"
    assert (folder.path / "facts.expected").read_bytes() == b"seccomp 2\n"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert (folder.path / "input").is_dir()
    assert (folder.path / "code").is_dir()


def test_a_context_that_is_made_again_holds_nothing_of_before(folder: ContextFolder) -> None:
    (folder.path / "input/old").write_text("old")
    folder.make(b"false\0", b"", b"x\n")
    assert contents(folder.path) == {
        "command.list": b"false\0",
        "environment.list": b"",
        "facts.expected": b"x\n",
    }


def test_a_context_that_a_job_has_taken_is_not_made_again(folder: ContextFolder) -> None:
    (folder.path / "claim").symlink_to("7")
    (folder.path / "input/used").write_text("in use")
    before = contents(folder.path)
    with pytest.raises(ContextTaken, match="job 7 has taken the context"):
        folder.make(b"false\0", b"", b"")
    assert contents(folder.path) == before


def test_a_context_that_cannot_be_made_is_the_sites_to_put_right(tmp_path: Path) -> None:
    with pytest.raises(StagingFailed, match="the context cannot be made"):
        Contexts(LocalFiles(), tmp_path / "missing").of("p1").make(b"", b"", b"")


def test_a_file_is_staged_under_its_name_or_its_target(folder: ContextFolder, data: Path) -> None:
    (data / "a.csv").write_text("1")
    stage(folder, data, wanting(("data:a.csv", None), ("data:a.csv", "deep/er/b.csv")))
    assert contents(folder.path / "input") == {"a.csv": b"1", "deep/er/b.csv": b"1"}


def test_a_folder_is_staged_whole(folder: ContextFolder, data: Path) -> None:
    (data / "set/sub").mkdir(parents=True)
    (data / "set/a").write_text("a")
    (data / "set/sub/ü").write_text("b")
    stage(folder, data, wanting(("data:set", None)))
    assert contents(folder.path / "input") == {"set/a": b"a", "set/sub/ü": b"b"}


def test_what_was_staged_is_told_with_size_and_digest(folder: ContextFolder, data: Path) -> None:
    (data / "a").write_bytes(b"abc")
    [copied] = folder.stage(wanting(("data:a", None)), Origins({"data": data}), ROOMY)
    assert (copied.size_bytes, copied.sha256) == (3, hashlib.sha256(b"abc").hexdigest())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_code_is_seen_at_the_same_place_be_it_a_file_or_a_folder(
    kind: str, folder: ContextFolder, data: Path
) -> None:
    (data / "src").mkdir()
    (data / "src/run.py").write_text("run")
    source = "data:src/run.py" if kind == "file" else "data:src"
    stage(folder, data, wanting(code=source))
    assert contents(folder.path / "code") == {"run.py": b"run"}


def test_what_is_staged_is_a_copy(folder: ContextFolder, data: Path) -> None:
    (data / "a").write_text("before")
    stage(folder, data, wanting(("data:a", None)))
    (data / "a").write_text("after!")
    assert (folder.path / "input/a").read_text() == "before"


def test_what_is_missing_is_named(folder: ContextFolder, data: Path) -> None:
    assert refusal(folder, data, wanting(("data:no/a", None))) == "data:no/a does not exist"
    (data / "file").write_text("")
    assert "does not exist" in refusal(folder, data, wanting(("data:file/a", None)))


@pytest.mark.parametrize("path", ["link", "link/secret", "sub/link", "sub"])
def test_no_link_is_followed_wherever_it_stands(
    path: str, folder: ContextFolder, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (data / "sub").mkdir()
    (data / "link").symlink_to(tmp_path / "outside")
    (data / "sub/link").symlink_to(tmp_path / "outside/secret")
    message = refusal(folder, data, wanting((f"data:{path}", "here")))
    assert "symbolic link" in message or "not a plain file" in message
    assert b"secret" not in contents(folder.path).values()


def test_a_link_within_the_store_is_not_followed_either(folder: ContextFolder, data: Path) -> None:
    (data / "a").write_text("a")
    (data / "link").symlink_to("a")
    assert "link is a symbolic link" in refusal(folder, data, wanting(("data:link", None)))


@pytest.mark.parametrize("place", ["pipe", "sub"])
def test_a_pipe_is_refused_and_nobody_waits_for_it(
    place: str, folder: ContextFolder, data: Path
) -> None:
    (data / "sub").mkdir()
    os.mkfifo(data / "pipe")
    os.mkfifo(data / "sub/pipe")
    assert "not a plain file" in refusal(folder, data, wanting((f"data:{place}", None)))


def test_a_folder_with_a_name_that_is_not_utf_8_is_refused_and_the_name_is_told(
    folder: ContextFolder, data: Path
) -> None:
    (data / "set").mkdir()
    (data / os.fsdecode(b"set/\xff")).write_text("x")
    assert r"\udcff: its name is not UTF-8" in refusal(folder, data, wanting(("data:set", None)))


@pytest.mark.parametrize("source", ["data:a", "data:set"])
def test_what_is_too_large_is_refused(source: str, folder: ContextFolder, data: Path) -> None:
    (data / "set").mkdir()
    for name in ("a", "set/a"):
        (data / name).write_bytes(b"12345")
    stage(folder, data, wanting((source, "fits")), Bounds(5, 10))
    assert "4" in refusal(folder, data, wanting((source, "large")), Bounds(4, 10))


def test_the_bound_is_for_all_inputs_together(folder: ContextFolder, data: Path) -> None:
    (data / "a").write_bytes(b"12345")
    two = wanting(("data:a", "x"), ("data:a", "y"))
    assert "allowed" in refusal(folder, data, two, Bounds(9, 10))


def test_more_files_than_are_allowed_are_refused(folder: ContextFolder, data: Path) -> None:
    (data / "set").mkdir()
    for name in "abc":
        (data / "set" / name).touch()
    assert "more than the 2 files" in refusal(
        folder, data, wanting(("data:set", None)), Bounds(9, 2)
    )


def test_what_the_bridge_may_not_read_is_refused(
    folder: ContextFolder, data: Path, unprivileged: None
) -> None:
    (data / "a").touch(mode=0o000)
    assert "cannot be read by the bridge" in refusal(folder, data, wanting(("data:a", None)))


def test_a_file_that_grows_while_it_is_copied_is_not_taken_beyond_its_bound(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(b"123456")
    with pytest.raises(TooMuch, match="more than the 5 bytes"):
        copy_file(Spot(Below(HERE, tmp_path), "a"), HERE, tmp_path / "b", 5, plain("a"))


def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").symlink_to(tmp_path / "c")
    with pytest.raises(FileExistsError):
        copy_file(Spot(Below(HERE, tmp_path), "a"), HERE, tmp_path / "b", 5, plain("a"))
    assert not (tmp_path / "c").exists()


def test_what_is_opened_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("c")
    # What other tests have left to be closed is closed now.
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    copy_file(Spot(Below(HERE, tmp_path), "a/b/c"), HERE, tmp_path / "d", 5, plain("c"))
    for path in ("a/none", "a/b/none"):
        with pytest.raises(FileNotFoundError):
            copy_file(Spot(Below(HERE, tmp_path), path), HERE, tmp_path / "e", 5, plain("c"))
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(NotPlain):
        copy_file(Spot(Below(HERE, tmp_path), "link/b/c"), HERE, tmp_path / "f", 5, plain("c"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The submitter chooses the target, and 1024 characters can be more bytes than a path may have.
def test_a_target_that_the_file_system_does_not_take_is_no_crash(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 100)
    root.mkdir()
    (tmp_path / "a").touch()
    made = Contexts(LocalFiles(), root).of("p1")
    made.make(b"", b"", b"")
    long = "/".join(["\N{GRINNING FACE}" * 63] * 15 + ["\N{GRINNING FACE}" * 60, "a"])
    with pytest.raises((InvalidProcess, StagingFailed)):
        stage(made, tmp_path, wanting(("data:a", long)))


# --- left ---


def test_before_the_script_has_ended_nothing_is_left(folder: ContextFolder) -> None:
    left = folder.left()
    assert (left.exit_code, left.refused) == (None, None)
    assert (left.attested, left.facts) == (None, None)


@pytest.mark.parametrize(
    ("text", "code"), [("0\n", 0), ("200\n", 200), ("", None), ("x", None), ("-1", None)]
)
def test_the_exit_code_is_read(folder: ContextFolder, text: str, code: int | None) -> None:
    (folder.path / "exit_code").write_text(text)
    assert folder.left().exit_code == code


def test_the_reason_of_a_refusal_is_read(folder: ContextFolder) -> None:
    (folder.path / "refused").write_text("the image cannot be mounted\n")
    assert folder.left().refused == "the image cannot be mounted"


def test_what_the_container_was_found_to_be_is_read(folder: ContextFolder) -> None:
    (folder.path / "attested").write_text("node1 1772600767\n")
    (folder.path / "facts").write_text("seccomp 2\numask 077\n")
    left = folder.left()
    assert (left.attested, left.facts) == ("node1 1772600767", "seccomp 2\numask 077")


def test_a_log_is_read_from_an_offset_on(folder: ContextFolder) -> None:
    assert folder.read_log("stdout", 0, 10) == b""
    (folder.path / "stdout.txt").write_bytes(b"0123456789")
    assert folder.read_log("stdout", 3, 4) == b"3456"
    assert folder.read_log("stdout", 20, 4) == b""


@pytest.mark.parametrize("name", ["exit_code", "refused", "attested", "facts"])
def test_what_is_left_and_cannot_be_read_is_not_taken_for_nothing(
    name: str, folder: ContextFolder, unprivileged: None
) -> None:
    (folder.path / name).write_text("0")
    (folder.path / name).chmod(0o000)
    with pytest.raises(StagingFailed, match=f"{name} cannot be read"):
        folder.left()


def test_the_job_that_took_a_context_is_told(folder: ContextFolder) -> None:
    assert folder.left().taken_by is None
    (folder.path / "claim").symlink_to("123")
    assert folder.left().taken_by == 123


@pytest.mark.parametrize("target", ["", "x", "/etc/passwd", "12x", "-1"])
def test_a_claim_that_is_no_job_is_nobodys(folder: ContextFolder, target: str) -> None:
    if target:
        (folder.path / "claim").symlink_to(target)
    else:
        (folder.path / "claim").write_text("123")
    assert folder.left().taken_by is None


def test_a_log_that_cannot_be_read_is_empty(folder: ContextFolder, unprivileged: None) -> None:
    (folder.path / "stdout.txt").write_text("shut")
    (folder.path / "stdout.txt").chmod(0o000)
    (folder.path / "stderr.txt").mkdir()
    for stream in ("stdout", "stderr"):
        assert folder.read_log(stream, 0, 10) == b""


@pytest.mark.parametrize("source", ["data:code", "data:code/tool"])
def test_programs_of_the_code_stay_programs_and_nothing_else_becomes_one(
    folder: ContextFolder, tmp_path: Path, source: str
) -> None:
    (tmp_path / "data/code").mkdir()
    for name, mode in {"tool": 0o755, "text": 0o644}.items():
        (tmp_path / "data/code" / name).write_text(name)
        (tmp_path / "data/code" / name).chmod(mode)
    wanted = spec(code={"source": source}, inputs=[{"source": "data:code", "target": "data"}])
    folder.stage(wanted, Origins({"data": tmp_path / "data"}), Bounds(1 << 20, 100))
    modes = {
        str(path.relative_to(folder.path)): path.stat().st_mode & 0o777
        for part in ("code", "input")
        for path in (folder.path / part).rglob("*")
        if path.is_file()
    }
    expected = {"code/tool": 0o750, "input/data/tool": 0o640, "input/data/text": 0o640}
    assert modes == expected | ({"code/text": 0o640} if source == "data:code" else {})


class Meeting(LocalFiles):
    """A host on which no file is made before another is."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2, timeout=10)

    @contextmanager
    def create(self, path: Path, *, mode: int) -> Iterator[BinaryIO]:
        self.both.wait()
        with super().create(path, mode=mode) as file:
            yield file


def test_files_of_a_folder_do_not_wait_for_each_other(
    tmp_path: Path, folder: ContextFolder
) -> None:
    (tmp_path / "data/all").mkdir()
    for name in "abcd":
        (tmp_path / "data/all" / name).write_text(name)
    there = Contexts(Meeting(), tmp_path / "contexts").of("p1")
    copied = there.stage(wanting(("data:all", "all")), Origins({"data": tmp_path / "data"}), ROOMY)
    assert [file.path for file in copied] == [f"input/all/{name}" for name in "abcd"]
