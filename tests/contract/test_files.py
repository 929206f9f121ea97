"""One contract for files on every host: on this one, and on another over SFTP."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from slurmbridge.shell import Files, Kind, NotPlain
from tests.contract.file_worlds import Host

# --- folders ---


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2770, 0o1777, 0o500])
def test_a_folder_has_exactly_the_rights_that_were_asked_for(
    files: Files, folder: Path, mode: int
) -> None:
    files.make_folder(folder / "made", mode=mode)
    entry = files.look(folder / "made")
    assert (entry.name, entry.kind, entry.mode) == ("made", Kind.FOLDER, mode)


def test_a_folder_is_made_once(files: Files, folder: Path) -> None:
    files.write(folder / "file", b"")
    for name in ("", "file"):
        with pytest.raises(FileExistsError):
            files.make_folder(folder / name, mode=0o700)
    with pytest.raises(FileNotFoundError):
        files.make_folder(folder / "a/b", mode=0o700)


def test_with_parents_what_is_missing_is_made_and_the_rest_is_left(
    files: Files, folder: Path
) -> None:
    files.make_folder(folder / "a/b/c", mode=0o710, parents=True)
    files.make_folder(folder / "a/b/c", mode=0o777, parents=True)
    assert [files.look(folder / path).mode for path in ("a", "a/b", "a/b/c")] == [0o710] * 3
    assert files.look(folder).mode == 0o750
    files.write(folder / "file", b"")
    with pytest.raises(FileExistsError):
        files.make_folder(folder / "file", mode=0o700, parents=True)
    with pytest.raises(OSError, match="file"):
        files.make_folder(folder / "file/below", mode=0o700, parents=True)


def test_several_make_the_same_folder_at_once(files: Files, folder: Path) -> None:
    barrier = threading.Barrier(6)

    def make(_: int) -> None:
        barrier.wait()
        files.make_folder(folder / "x/y/z", mode=0o700, parents=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(make, range(6)))
    assert files.look(folder / "x/y/z").kind is Kind.FOLDER


# --- looking ---


def test_what_a_name_stands_for(host: Host, folder: Path) -> None:
    host.by_hand(
        'cd "$1"; printf 12345 >file; chmod 604 file; touch -d @1000000000 file; mkdir folder; '
        "ln -s file link; ln -s folder away; ln -s nowhere broken; mkfifo fifo",
        str(folder),
    )
    found = {entry.name: entry for entry in host.files.list(folder)}
    assert {name: entry.kind for name, entry in found.items()} == {
        "away": Kind.LINK, "broken": Kind.LINK, "fifo": Kind.OTHER,
        "file": Kind.FILE, "folder": Kind.FOLDER, "link": Kind.LINK,
    }  # fmt: skip
    for entry in (found["file"], host.files.look(folder / "file")):
        assert (entry.size_bytes, entry.mode, entry.modified_at) == (5, 0o604, 1e9)
    for name, entry in found.items():
        assert host.files.look(folder / name).kind is entry.kind
    assert list(found) == sorted(found)


def test_a_list_says_how_many_names_a_file_has(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; : >one; ln one two; ln one three; : >single', str(folder))
    names = {entry.name: entry.names for entry in host.files.list(folder)}
    assert names == {"one": 3, "two": 3, "three": 3, "single": 1}


def test_what_is_not_there_is_not_found(files: Files, folder: Path) -> None:
    missing = folder / "missing"
    for call in (files.look, files.list, files.read_link, files.remove_file, files.remove_tree):
        with pytest.raises(FileNotFoundError) as caught:
            call(missing)
        assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError):
        files.read(missing, limit=1)
    with pytest.raises(FileNotFoundError):
        files.set_mode(missing, 0o600)
    with pytest.raises(FileNotFoundError):
        files.rename(missing, folder / "new")
    with pytest.raises(FileNotFoundError), files.open(folder, "missing"):
        pass
    with pytest.raises(FileNotFoundError):
        files.write(missing / "below", b"")
    with pytest.raises(FileNotFoundError), files.create(missing / "below", mode=0o600):
        pass


def test_only_a_folder_has_a_list(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; : >file; mkdir real; ln -s real link', str(folder))
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            host.files.list(folder / name)
        with pytest.raises(NotADirectoryError):
            host.files.remove_tree(folder / name)
    assert host.files.look(folder / "real").kind is Kind.FOLDER


def test_a_long_list_is_whole_and_a_limited_one_is_not(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; seq -f %05g 1500 | xargs touch', str(folder))
    assert [entry.name for entry in host.files.list(folder)] == [
        f"{number:05}" for number in range(1, 1501)
    ]
    assert len(host.files.list(folder, limit=10)) == 11
    assert len(host.files.list(folder, limit=0)) == 1
    assert len(host.files.list(folder, limit=1500)) == 1500


HOSTILE = [
    "a b",
    "-rf",
    "'",
    '"',
    "a\nb",
    "\\",
    "*",
    "$HOME",
    "é",
    "\N{SNOWMAN}",
    "\udcff\udc80x",
    "." * 5,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_may_be_anything(files: Files, folder: Path, name: str) -> None:
    files.write(folder / name, b"content")
    assert [entry.name for entry in files.list(folder)] == [name]
    assert files.look(folder / name).name == name
    assert files.read(folder / name, limit=100) == b"content"
    with files.open(folder, name) as file:
        assert file.read() == b"content"
    files.rename(folder / name, folder / f"{name}2")
    files.remove_file(folder / f"{name}2")
    files.make_folder(folder / name, mode=0o700)
    files.write(folder / name / name, b"")
    files.remove_tree(folder / name)
    assert files.list(folder) == []


def test_where_a_link_leads_is_told_byte_by_byte(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; ln -s "$(printf "/no/\\377 where")" link; : >file', str(folder))
    assert host.files.read_link(folder / "link") == "/no/\udcff where"
    with pytest.raises(OSError, match="Invalid argument"):
        host.files.read_link(folder / "file")


# --- reading ---


def test_a_part_of_a_file_can_be_read(files: Files, folder: Path) -> None:
    content = os.urandom(1_000_000)
    files.write(folder / "file", content)
    assert files.read(folder / "file", limit=10) == content[:10]
    assert files.read(folder / "file", limit=700_000, offset=123) == content[123:700_123]
    assert files.read(folder / "file", limit=2_000_000, offset=999_990) == content[-10:]
    assert files.read(folder / "file", limit=5, offset=2_000_000) == b""
    assert files.read(folder / "file", limit=0) == b""
    assert files.read(folder / "file", limit=1 << 40) == content


def test_what_has_been_added_is_read_on(files: Files, folder: Path) -> None:
    files.write(folder / "log", b"one")
    with files.open(folder, "log") as file:
        assert file.read() == b"one"
    files.write(folder / "log", b"one, two")
    assert files.read(folder / "log", limit=100, offset=3) == b", two"


def test_only_plain_files_are_read(host: Host, folder: Path) -> None:
    host.by_hand(
        'cd "$1"; echo secret >file; ln -s file link; mkfifo fifo; mkdir folder', str(folder)
    )
    for name in ("link", "fifo", "folder"):
        with pytest.raises(NotPlain):
            host.files.read(folder / name, limit=10)
        with pytest.raises(NotPlain), host.files.open(folder, name):
            pass
    with pytest.raises(NotPlain):
        host.files.read(Path("/dev/zero"), limit=10)


@pytest.mark.parametrize(
    "path", ["link/file", "real/link/file", "real/up", "..", "real/../file", "/etc/passwd"]
)
def test_no_part_of_a_path_is_followed(host: Host, folder: Path, path: str) -> None:
    host.by_hand(
        'cd "$1"; mkdir -p real/inner; : >real/inner/file; ln -s real/inner link; : >file; '
        "ln -s inner real/link; ln -s ../file real/up",
        str(folder),
    )
    with pytest.raises(NotPlain), host.files.open(folder, path):
        pass
    with host.files.open(folder, "real/inner/file") as file:
        assert file.read() == b""
    with pytest.raises(FileNotFoundError), host.files.open(folder, "file/below"):
        pass


def test_a_file_is_read_in_pieces_of_any_size(files: Files, folder: Path) -> None:
    content = os.urandom(5_000_000)
    files.write(folder / "file", content)
    with files.open(folder, "file") as file:
        pieces = [file.read(size) for size in (1, 100_000, 3, 2_000_000)]
        assert file.tell() == 2_100_004
        assert b"".join(pieces) + file.read() == content
        assert file.read() == b""
    with files.open(folder, "file") as file:
        assert file.read(10) == content[:10]
    with files.open(folder, "file") as file:
        assert b"".join(iter(lambda: file.read(65_536), b"")) == content


def test_lines_are_read_one_by_one(files: Files, folder: Path) -> None:
    files.write(folder / "file", b"one\ntwo\n")
    with files.open(folder, "file") as file:
        assert list(file) == [b"one\n", b"two\n"]


def test_who_stops_reading_leaves_nothing_behind(files: Files, folder: Path) -> None:
    files.write(folder / "file", bytes(3_000_000))
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), files.open(folder, "file") as file:
            assert len(file.read(1_500_000)) == 1 / 0
    with files.open(folder, "file") as file:
        other = files.read(folder / "file", limit=3)
        assert file.read(3) == other


# --- writing ---


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755, 0o400])
def test_a_file_has_exactly_the_rights_that_were_asked_for(
    files: Files, folder: Path, mode: int
) -> None:
    files.write(folder / "written", b"1", mode=mode)
    with files.create(folder / "created", mode=mode) as file:
        file.write(b"2")
    assert {entry.mode for entry in files.list(folder)} == {mode}


def test_a_file_replaces_another_and_leaves_nothing_beside_it(files: Files, folder: Path) -> None:
    for content in (b"first", b"", b"third"):
        files.write(folder / "file", content)
        assert files.read(folder / "file", limit=10) == content
    assert [entry.name for entry in files.list(folder)] == ["file"]
    files.make_folder(folder / "taken", mode=0o700)
    with pytest.raises(IsADirectoryError):
        files.write(folder / "taken", b"")
    assert [entry.name for entry in files.list(folder)] == ["file", "taken"]


def test_a_link_is_replaced_and_not_followed(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; echo old >target; ln -s target link', str(folder))
    host.files.write(folder / "link", b"new")
    assert host.files.read(folder / "target", limit=10) == b"old\n"
    assert host.files.look(folder / "link").kind is Kind.FILE


def test_who_reads_sees_the_old_file_or_the_new_one(files: Files, folder: Path) -> None:
    contents = [bytes([number]) * 200_000 for number in range(20)]
    files.write(folder / "file", contents[0])
    done = threading.Event()

    def watch() -> set[bytes]:
        seen = set()
        while not done.is_set():
            seen.add(files.read(folder / "file", limit=1 << 20))
        return seen

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for content in contents:
            files.write(folder / "file", content)
        done.set()
        assert watching.result() <= set(contents)


def test_a_new_file_is_new(host: Host, folder: Path) -> None:
    host.by_hand('cd "$1"; : >file; ln -s nowhere link; mkdir folder', str(folder))
    for name in ("file", "link", "folder"):
        with pytest.raises(FileExistsError), host.files.create(folder / name, mode=0o600):
            pass
    assert host.files.look(folder / "link").kind is Kind.LINK


def test_a_large_file_is_written_and_read_whole(host: Host, folder: Path) -> None:
    content = os.urandom(1 << 20)
    with host.files.create(folder / "file", mode=0o640) as file:
        for number in range(40):
            file.write(content[number:])
    size = host.files.look(folder / "file").size_bytes
    assert size == sum(len(content) - number for number in range(40))
    told = host.by_hand('sha256sum <"$1"', str(folder / "file")).split()[0]
    whole = sha256()
    with host.files.open(folder, "file") as file:
        while data := file.read(300_000):
            whole.update(data)
    assert whole.hexdigest() == told


def test_who_stops_writing_writes_nothing_more(files: Files, folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.create(folder / "file", mode=0o600) as file:
        assert file.write(b"x" * 3_000_000) + file.write(b"y") == 1 / 0
    size = files.look(folder / "file").size_bytes
    del file
    files.write(folder / "other", b"z")
    assert files.look(folder / "file").size_bytes == size
    assert files.read(folder / "other", limit=10) == b"z"


# --- all at once ---


def test_many_threads_work_at_once(files: Files, folder: Path) -> None:
    def work(number: int) -> bytes:
        path = folder / str(number)
        with files.create(path, mode=0o600) as file:
            for _ in range(20):
                file.write(bytes([number]) * 100_000)
        files.rename(path, path.with_suffix(".done"))
        return files.read(path.with_suffix(".done"), limit=1 << 30)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(work, range(24)))
    assert found == [bytes([number]) * 2_000_000 for number in range(24)]
    assert stat.S_IMODE(files.look(folder / "3.done").mode) == 0o600
