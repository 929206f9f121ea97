"""The shipped files in memory keep the contract of the real ones.

What only a real host can show is left out: rights that forbid something, and paths that are longer
than any path. A hand on the host works on real files, which are brought there and back.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.shell import Kind
from slurmbridge.testing.files import MemoryFiles, Node
from tests.contract import test_files, test_files_changed
from tests.contract.file_worlds import Host

_OF_A_REAL_HOST = {
    "test_what_one_may_not_do_is_told",
    "test_a_tree_deeper_than_any_path_is_removed",
}
for _name, _test in (vars(test_files) | vars(test_files_changed)).items():
    if _name.startswith("test_") and _name not in _OF_A_REAL_HOST:
        globals()[_name] = _test


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    root = tmp_path_factory.mktemp("memory")
    memory = MemoryFiles()
    memory.make_folder(root, mode=0o755, parents=True)
    memory.make_folder(Path("/dev"), mode=0o755)
    memory.make_other(Path("/dev/zero"))
    return Host(memory, root, _hand(memory, root))


def _hand(memory: MemoryFiles, root: Path) -> Callable[..., str]:
    def by_hand(script: str, *words: str) -> str:
        shutil.rmtree(root)
        root.mkdir()
        _to_disk(memory, root)
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *words], capture_output=True, text=True, check=True
        )
        memory.remove_tree(root)
        memory.make_folder(root, mode=0o755)
        _from_disk(memory, root, {})
        return done.stdout

    return by_hand


def _to_disk(memory: MemoryFiles, folder: Path) -> None:
    for entry in memory.list(folder):
        path = folder / entry.name
        if entry.kind is Kind.FOLDER:
            path.mkdir()
            _to_disk(memory, path)
            path.chmod(entry.mode)
        elif entry.kind is Kind.LINK:
            path.symlink_to(memory.read_link(path))
        elif entry.kind is Kind.FILE:
            path.write_bytes(memory.read(path, limit=1 << 40))
            path.chmod(entry.mode)
        else:
            os.mkfifo(path)


def _from_disk(memory: MemoryFiles, folder: Path, known: dict[int, Path]) -> None:
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            memory.make_folder(path, mode=mode)
            path.chmod(0o700)
            _from_disk(memory, path, known)
        elif stat.S_ISLNK(status.st_mode):
            memory.link(path, str(path.readlink()))
        elif not stat.S_ISREG(status.st_mode):
            memory.make_other(path, mode)
        elif status.st_ino in known:
            memory.hard_link(known[status.st_ino], path)
        else:
            memory.write(path, path.read_bytes(), mode=mode)
            _node(memory, path).modified_at = status.st_mtime
            known[status.st_ino] = path


def _node(memory: MemoryFiles, path: Path) -> Node:
    node = memory.root
    for part in path.parts[1:]:
        node = node.below[part]
    return node


def test_a_link_that_leads_nowhere_near_is_not_followed_for_ever() -> None:
    memory = MemoryFiles()
    memory.link(Path("/a"), "b")
    memory.link(Path("/b"), "a")
    with pytest.raises(OSError, match="symbolic links"):
        memory.look(Path("/a/below"))


def test_links_above_are_followed() -> None:
    memory = MemoryFiles()
    memory.make_folder(Path("/real/inner"), mode=0o700, parents=True)
    memory.link(Path("/real/up"), "../real/inner")
    memory.link(Path("/absolute"), "/real/up")
    memory.write(Path("/absolute/file"), b"found")
    assert memory.read(Path("/real/inner/file"), limit=10) == b"found"
    assert memory.read(Path("/real/up/../inner/file"), limit=10) == b"found"
