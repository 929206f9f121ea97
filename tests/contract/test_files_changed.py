"""One contract for files on every host: other names, other rights, and removal."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurmbridge.shell import Files
from tests.contract.file_worlds import Host


def test_a_file_gets_another_name_and_replaces_what_had_it(files: Files, folder: Path) -> None:
    files.write(folder / "old", b"content")
    files.write(folder / "new", b"gone")
    files.rename(folder / "old", folder / "new")
    assert [entry.name for entry in files.list(folder)] == ["new"]
    assert files.read(folder / "new", limit=10) == b"content"


def test_a_file_gets_a_second_name(files: Files, folder: Path) -> None:
    files.write(folder / "old", b"content", mode=0o640)
    files.hard_link(folder / "old", folder / "new")
    assert {entry.name: entry.names for entry in files.list(folder)} == {"old": 2, "new": 2}
    files.remove_file(folder / "old")
    assert files.read(folder / "new", limit=10) == b"content"
    assert files.list(folder)[0].names == 1


def test_a_second_name_replaces_nothing_and_needs_a_file(files: Files, folder: Path) -> None:
    files.write(folder / "old", b"content")
    files.write(folder / "new", b"kept")
    with pytest.raises(FileExistsError):
        files.hard_link(folder / "old", folder / "new")
    assert files.read(folder / "new", limit=10) == b"kept"
    with pytest.raises(FileNotFoundError):
        files.hard_link(folder / "missing", folder / "other")
    files.make_folder(folder / "folder", mode=0o700)
    with pytest.raises(OSError, match=r"."):
        files.hard_link(folder / "folder", folder / "other")
    assert [entry.name for entry in files.list(folder)] == ["folder", "new", "old"]


def test_a_folder_that_is_removed_takes_its_names_alone(files: Files, folder: Path) -> None:
    files.make_folder(folder / "a", mode=0o700)
    files.make_folder(folder / "a/deep", mode=0o700)
    files.write(folder / "a/deep/file", b"content")
    files.hard_link(folder / "a/deep/file", folder / "other")
    files.remove_tree(folder / "a")
    assert [(entry.name, entry.names) for entry in files.list(folder)] == [("other", 1)]
    assert files.read(folder / "other", limit=10) == b"content"


def test_a_folder_gets_another_name_and_replaces_nothing(files: Files, folder: Path) -> None:
    files.make_folder(folder / "a", mode=0o700)
    files.write(folder / "a/file", b"")
    files.rename(folder / "a", folder / "b")
    assert [entry.name for entry in files.list(folder / "b")] == ["file"]
    files.make_folder(folder / "c", mode=0o700)
    with pytest.raises(OSError, match="not empty") as caught:
        files.rename(folder / "c", folder / "b")
    assert caught.value.errno
    with pytest.raises(IsADirectoryError):
        files.rename(folder / "b/file", folder / "c")
    with pytest.raises(NotADirectoryError):
        files.rename(folder / "c", folder / "b/file")


def test_rights_are_set_but_not_through_a_link(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; : >file; chmod 640 file; ln -s file link; mkdir shut', str(folder))
    host.files.set_mode(folder / "file", 0o604)
    host.files.set_mode(folder / "shut", 0)
    host.files.set_mode(folder / "shut", 0o2750)
    with pytest.raises(OSError, match="symbolic links"):
        host.files.set_mode(folder / "link", 0o666)
    assert host.files.look(folder / "file").mode == 0o604
    assert host.files.look(folder / "shut").mode == 0o2750


def test_a_file_or_a_link_is_removed_and_a_folder_is_not(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; : >file; ln -s file link; mkdir folder; mkfifo fifo', str(folder))
    for name in ("link", "fifo"):
        host.files.remove_file(folder / name)
    with pytest.raises(IsADirectoryError):
        host.files.remove_file(folder / "folder")
    assert [entry.name for entry in host.files.list(folder)] == ["file", "folder"]


def test_a_tree_is_removed_and_what_its_links_lead_to_is_not(host: Host, folder: Path) -> None:
    host.by_hand(
        'cd "$1"; mkdir -p tree/a/b outside; : >outside/kept; ln -s ../outside tree/link; '
        "ln -s ../../outside/kept tree/a/link; mkfifo tree/a/fifo; : >tree/a/b/file; "
        "seq 700 | (cd tree/a/b && xargs touch); mkdir -p tree/shut/in/it; : >tree/shut/in/file; "
        "chmod 000 tree/shut/in tree/shut; chmod 400 tree/a",
        str(folder),
    )
    host.files.remove_tree(folder / "tree")
    assert [entry.name for entry in host.files.list(folder)] == ["outside"]
    assert [entry.name for entry in host.files.list(folder / "outside")] == ["kept"]


def test_a_shut_folder_is_removed(files: Files, folder: Path) -> None:
    files.make_folder(folder / "shut", mode=0o700)
    files.write(folder / "shut/file", b"")
    files.set_mode(folder / "shut", 0)
    files.remove_tree(folder / "shut")
    assert files.list(folder) == []


def test_a_tree_deeper_than_any_path_is_removed(host: Host, folder: Path) -> None:
    deep = (
        "import os, sys\nos.chdir(sys.argv[1])\nname = 'd' * 100\n"
        "for _ in range(3000):\n    os.mkdir(name)\n    os.chdir(name)\n"
        "open('file', 'w').close()\n"
    )
    host.by_hand('python3 -c "$1" "$2"', deep, str(folder))
    began = time.monotonic()
    host.files.remove_tree(folder)
    assert time.monotonic() - began < 30
    with pytest.raises(FileNotFoundError):
        host.files.look(folder)


def test_what_one_may_not_do_is_told(host: Host, folder: Path) -> None:
    shut = Path(f"/tmp/shut-{folder.name}")
    host.by_hand('mkdir "$1"; : >"$1/file"; chmod 000 "$1"', str(shut))
    with nobody():
        with pytest.raises(PermissionError):
            host.files.list(shut)
        with pytest.raises(PermissionError):
            host.files.write(shut / "new", b"")
        _is_kept_from_the_system(host)
    host.files.remove_tree(shut)


@contextmanager
def nobody() -> Iterator[None]:
    """To root nothing is forbidden."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def _is_kept_from_the_system(host: Host) -> None:
    with pytest.raises(PermissionError):
        host.files.read(Path("/etc/shadow"), limit=10)
    with pytest.raises(PermissionError):
        host.files.make_folder(Path("/etc/new"), mode=0o700)
