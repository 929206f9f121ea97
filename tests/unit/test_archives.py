"""Archives that somebody else has made: what is unpacked, and what never is."""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmbridge.context.archives import unpack
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds, TooMuch
from slurmbridge.errors import InvalidProcess
from slurmbridge.shell import LocalFiles, NotPlain
from slurmbridge.spec import parse_spec

ROOM = Bounds(1 << 20, 100)
GOOD = {"project/script.py": b"print(1)\n", "project/data/a b.txt": b"a" * 5000}


def tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """A tar file with these."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            entry.size, entry.mode = len(member[1]), 0o755
            archive.addfile(entry, io.BytesIO(member[1]))
    return made.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A zip file with these."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Something that is no file."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def link_in_zip(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry, target.encode()


def flipped(content: bytes, place: int) -> bytes:
    """With another byte there."""
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Unpacks, and tells what is there afterwards."""

    def run(content: bytes, name: str, bounds: Bounds = ROOM) -> dict[str, bytes]:
        (tmp_path / "packed").write_bytes(content)
        unpack(tmp_path / "packed", name, tmp_path / "all", bounds)
        return {
            str(path.relative_to(tmp_path / "all")): path.read_bytes()
            for path in (tmp_path / "all").rglob("*")
            if path.is_file()
        }

    return run


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (tar(*GOOD.items()), "x.tar"),
        (gzip.compress(tar(*GOOD.items())), "x.tar.gz"),
        (gzip.compress(tar(*GOOD.items())), "x.tgz"),
        (zipped(*GOOD.items()), "x.zip"),
        (tar(special("./", tarfile.DIRTYPE), *((f"./{k}", v) for k, v in GOOD.items())), "x.tar"),
    ],
)
def test_files_come_out_as_they_were_packed(
    unpacked: Callable[..., dict[str, bytes]], content: bytes, name: str
) -> None:
    assert unpacked(content, name) == GOOD


HOSTILE: dict[str, tuple[bytes, str, str]] = {
    "absolute": (tar(("/etc/evil", b"")), "x.tar", "would lie elsewhere"),
    "climbing": (tar(("a/../../evil", b"")), "x.tar", "would lie elsewhere"),
    "climbing in a zip": (zipped(("../evil", b"")), "x.zip", "would lie elsewhere"),
    "absolute in a zip": (zipped(("/evil", b"")), "x.zip", "would lie elsewhere"),
    "link": (tar(special("a", tarfile.SYMTYPE, "/etc")), "x.tar", "not a plain file"),
    "link, then a file through it": (
        tar(special("a", tarfile.SYMTYPE, "/tmp"), ("a/evil", b"")), "x.tar", "not a plain file",
    ),
    "hard link": (tar(("b", b""), special("a", tarfile.LNKTYPE, "b")), "x.tar", "not a plain"),
    "device": (tar(special("a", tarfile.CHRTYPE)), "x.tar", "not a plain file"),
    "FIFO": (tar(special("a", tarfile.FIFOTYPE)), "x.tar", "not a plain file"),
    "link in a zip": (zipped(link_in_zip("a", "/etc/shadow")), "x.zip", "not a plain file"),
    "twice": (tar(("a", b"1"), ("a", b"2")), "x.tar", "holds a twice"),
    "file, then a file below it": (tar(("a", b"1"), ("a/b", b"2")), "x.tar", "twice"),
    "folder, then a file of its name": (tar(("a/b", b"1"), ("a", b"2")), "x.tar", "holds a twice"),
    "no UTF-8": (
        tar(("aXb", b"")).replace(b"aXb", b"a\xffb"), "x.tar", "damaged",
    ),
    "too deep": (tar(("d/" * 65 + "x", b"")), "x.tar", "too long"),
    "long path": (tar(("/".join(["d" * 99] * 30), b"")), "x.tar", "too long"),
    "long name": (tar(("n" * 256, b"")), "x.tar", "too long"),
    "no tar": (b"PK\x03\x04 this is none", "x.tar", "damaged, or no .tar file"),
    "no gzip": (tar(("a", b"")), "x.tar.gz", "damaged, or no .tar.gz file"),
    "no zip": (tar(("a", b"")), "x.zip", "damaged, or no .zip file"),
    "broken gzip": (gzip.compress(tar(*GOOD.items()))[:-40], "x.tgz", "damaged"),
    "broken zip": (flipped(zipped(*GOOD.items()), 52), "x.zip", "damaged"),
    "empty": (b"", "x.zip", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_plain_is_refused_and_nothing_lies_elsewhere(
    unpacked: Callable[..., dict[str, bytes]], tmp_path: Path, what: str
) -> None:
    content, name, said = HOSTILE[what]
    with pytest.raises(NotPlain, match=said):
        unpacked(content, name)
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "all"}
    assert not [path for path in (tmp_path / "all").rglob("*") if path.is_symlink()]


def test_a_name_that_is_not_utf_8_is_refused(unpacked: Callable[..., dict[str, bytes]]) -> None:
    entry = tarfile.TarInfo(os.fsdecode(b"a\xffb"))
    made = io.BytesIO()
    with tarfile.open(
        fileobj=made, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as archive:
        archive.addfile(entry)
    with pytest.raises(NotPlain, match="not UTF-8"):
        unpacked(made.getvalue(), "x.tar")


BOMBS = {
    "zip": (zipped(("a", bytes(20 << 20))), "x.zip", "more than the 1048576 bytes"),
    "tar": (gzip.compress(tar(("a", bytes(20 << 20)))), "x.tgz", "more than the 1048576 bytes"),
    "many files": (tar(*((str(n), b"") for n in range(300))), "x.tar", "more than the 100 files"),
    "many folders": (
        tar(*(special(str(n), tarfile.DIRTYPE) for n in range(300))), "x.tar", "100 files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_what_is_too_much_ends_when_the_limit_is_reached(
    unpacked: Callable[..., dict[str, bytes]], tmp_path: Path, what: str
) -> None:
    content, name, said = BOMBS[what]
    with pytest.raises(TooMuch, match=said):
        unpacked(content, name)
    written = sum(path.stat().st_size for path in (tmp_path / "all").rglob("*"))
    assert written < 2 << 20


def test_a_name_that_fills_the_memory_is_not_read(
    unpacked: Callable[..., dict[str, bytes]],
) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(TooMuch, match="a name or attribute of 1073741824 bytes"):
        unpacked(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096), "x.tar")


def test_a_list_that_fills_the_memory_is_not_read(
    unpacked: Callable[..., dict[str, bytes]],
) -> None:
    content = bytearray(zipped(("a", b"1")))
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(TooMuch, match="a list of more files"):
        unpacked(bytes(content), "x.zip")


def test_the_larger_kind_of_zip_is_named(unpacked: Callable[..., dict[str, bytes]]) -> None:
    content = zipped(("a", b"1"))
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + bytes(16)
    with pytest.raises(NotPlain, match="ZIP64"):
        unpacked(content[:end] + locator + content[end:], "x.zip")


# --- as code ---


@pytest.fixture
def context(tmp_path: Path) -> ContextFolder:
    (tmp_path / "contexts").mkdir()
    (tmp_path / "code").mkdir()
    found = Contexts(LocalFiles(), tmp_path / "contexts").of("one")
    found.make(b"", b"", b"")
    return found


def stage(context: ContextFolder, tmp_path: Path, **code: object) -> dict[str, str]:
    spec = parse_spec({"image": "python", "command": ["true"], "code": code})
    copied = context.stage(spec, Origins({"code": tmp_path / "code"}), ROOM)
    return {file.path: file.sha256 for file in copied}


def test_an_archive_is_staged_as_the_folder_that_it_holds(
    context: ContextFolder, tmp_path: Path
) -> None:
    (tmp_path / "code/x.tgz").write_bytes(packed := gzip.compress(tar(*GOOD.items())))
    digest = hashlib.sha256(packed).hexdigest()
    source = {"source": "code:x.tgz", "unpack": True, "sha256": digest}
    assert stage(context, tmp_path, **source, path="project") == {
        "code/script.py": hashlib.sha256(b"print(1)\n").hexdigest(),
        "code/data/a b.txt": hashlib.sha256(b"a" * 5000).hexdigest(),
    }
    assert stat.S_IMODE((context.path / "code/script.py").stat().st_mode) & 0o100
    assert {path.name for path in context.path.iterdir()} == {
        "code", "command.list", "environment.list", "facts.expected", "input",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "is not what was declared"),
        ({"path": "other"}, "it holds no folder other"),
        ({"path": "project/script.py"}, "it holds no folder project/script.py"),
        ({"source": "code:none.tar"}, "code:none.tar does not exist"),
        ({"source": "code:folder.tar"}, "it is not a file"),
    ],
)
def test_what_is_wrong_with_it_is_said_and_nothing_is_left(
    context: ContextFolder, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    (tmp_path / "code/x.tar").write_bytes(tar(*GOOD.items()))
    (tmp_path / "code/folder.tar").mkdir()
    with pytest.raises(InvalidProcess, match=said):
        stage(context, tmp_path, **{"source": "code:x.tar", "unpack": True} | change)
    assert not (context.path / "room").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"source": "code:x.tar.xz", "unpack": True}, "unpack needs a source that ends with"),
        ({"source": "code:x.tar", "path": "a"}, "set unpack or commit"),
        ({"source": "code:x.tar", "unpack": True, "path": "../a"}, "path"),
    ],
)
def test_what_cannot_be_meant_is_refused(code: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidProcess, match=said):
        parse_spec({"image": "python", "command": ["true"], "code": code})
