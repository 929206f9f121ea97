"""F: files of the node, of other Processes, and of the bridge."""

# What is tried is the system's own calls, by path and by descriptor.
# ruff: noqa: PTH101, PTH113, PTH115, PTH116, PTH208

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from .calls import call
from .harness import Facts, Finding, add, any_of, closed, opened, probe


def listed(path: Path) -> Finding:
    """Whether a folder of the node can be listed."""
    names = sorted(os.listdir(path))
    return opened(f"{path}: {names[:4]}") if names else closed("empty")


def holds(path: str | Path, word: str) -> Finding:
    """Whether a file is there and is the node's: an image may have one of the same name."""
    text = Path(path).read_bytes()
    return opened(f"{path} was read") if word.encode() in text else closed("another file")


def secret_in(path: str) -> Callable[[Facts], Finding]:
    """A probe for a file that was given the secret; `path` is filled with the facts."""
    return lambda facts: holds(path.format(**facts), facts["secret"])


def folder(path: str) -> Callable[[Facts], Finding]:
    """A probe for a folder; `path` is filled with the facts."""
    return lambda facts: listed(Path(path.format(**facts)))


add("F1a", "the node's /etc/shadow can be read",
    lambda facts: holds("/etc/shadow", facts["user_name"]), "root")  # fmt: skip
add("F1d", "the home of the service user can be listed", folder("{real_home}"))
add("F1e", "the Data Stores can be listed", folder("{store}"))
add("F1f", "another Process's input can be read", secret_in("{neighbour}/input/{token}/secret"))
add("F1i", "another Process's variables can be read", secret_in("{neighbour}/environment.list"))
add("F1j", "the contexts can be listed", folder("{contexts}"))
add("F1k", "the images can be listed", folder("{images}"))
add("F1l", "results of other Processes can be listed", folder("{results}"))
add("F1m", "a file in the node's /tmp can be read", secret_in("{vault}/secret"))
add("F1n", "the key of the service user for ssh can be read", secret_in("{home}/.ssh/id_ed25519"))


@probe("F1b", "/etc/hostname is the node's")
def host_name(facts: Facts) -> Finding:
    """Any node's."""
    return any_of(facts["node_names"], lambda name: holds("/etc/hostname", name))


@probe("F1c", "/home has the homes of the node's users")
def homes(_facts: Facts) -> Finding:
    """alice, who is only on the cluster."""
    names = os.listdir("/home")
    return opened(names) if "alice" in names else closed(names)


@probe("F1g", "another Process's output can be read")
def output_of_another(facts: Facts) -> Finding:
    """In its context, or as one of the processes sees it that can be looked at."""
    roots = [facts["neighbour"], *(f"/proc/{name}/root" for name in os.listdir("/proc"))]
    return any_of(roots, lambda root: holds(f"{root}/output/secret", facts["secret"]))


@probe("F1h", "another Process's temporary files can be read")
def scratch_of_another(facts: Facts) -> Finding:
    """In its context, or through its first process."""
    roots = [facts["neighbour"] + "/tmp", *(f"/proc/{one['pid']}/cwd" for one in facts["victims"])]
    return any_of(roots, lambda root: holds(f"{root}/secret", facts["secret"]))


@probe("F1o", "/etc/passwd names the service user")
def passwd(facts: Facts) -> Finding:
    """By name."""
    return holds("/etc/passwd", f"{facts['user_name']}:")


@probe("F1p", "the program has the service user's number")
def number(facts: Facts) -> Finding:
    """As it sees itself."""
    return (opened if os.getuid() == facts["uid"] else closed)(os.getuid())


def _writes(path: str) -> Callable[[Facts], Finding]:
    def run(facts: Facts) -> Finding:
        file = Path(path.format(**facts)) / f"probe-{facts['token']}"
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        file.unlink()
        return opened(f"{file} was made")

    return run


for letter, path in zip("abcde", ("/", "/etc", "/usr/bin", "/usr/lib", "/opt"), strict=True):
    add(f"F2{letter}", f"a file can be made in {path}", _writes(path), "root")
add("F2f", "a file can be made among the inputs", _writes("{input}"))
add("F2g", "a file can be made among the program's own files", _writes("{code}"))
add("F2h", "a file can be made in the folder of the seal", _writes("{seal}"))


@probe("F2i", "an input can be opened for writing")
def write_input(facts: Facts) -> Finding:
    """Its own, not its folder."""
    os.close(os.open(facts["input_file"], os.O_WRONLY))
    return opened("opened")


@probe("F2j", "the mode of an input can be changed")
def change_input(facts: Facts) -> Finding:
    """To what it has."""
    os.chmod(facts["input_file"], stat.S_IMODE(os.stat(facts["input_file"]).st_mode))
    return opened("changed")


@probe("F2k", "the times of an input can be changed")
def touch_input(facts: Facts) -> Finding:
    """A channel to whoever looks at the store."""
    os.utime(facts["input_file"])
    return opened("changed")


_UP = "../" * 40


@probe("F3a", "a path that climbs from the inputs leads to the node")
def climb(facts: Facts) -> Finding:
    """Relative to a descriptor."""
    base = os.open(facts["input"], os.O_RDONLY | os.O_DIRECTORY)
    descriptor = os.open(f"{_UP}{facts['vault']}/secret", os.O_RDONLY, dir_fd=base)
    return opened(os.read(descriptor, 40))


@probe("F3b", "a link in the outputs leads to the node")
def link_out(facts: Facts) -> Finding:
    """Followed by the program itself."""
    link = Path(facts["scratch"]) / "link-to-the-node"
    link.unlink(missing_ok=True)
    link.symlink_to(f"{facts['vault']}/secret")
    try:
        return holds(link, facts["secret"])
    finally:
        link.unlink()


@probe("F3c", "the parent of the working directory leads to the context")
def parents(facts: Facts) -> Finding:
    """One step at a time, by descriptor."""
    for start in (facts["input"], facts["output"], facts["code"], facts["scratch"]):
        here = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(20):
            here = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            if "contexts" in os.listdir(here):
                return opened(f"from {start}")
    return closed("each ends at the container's own root")


def _carried(make: Callable[[Path, Facts], None]) -> Callable[[Facts], Finding]:
    """Makes something in the outputs. Outside it is collected carelessly; else others look."""

    def run(facts: Facts) -> Finding:
        path = Path(facts["output"]) / f"made-{make.__name__}"
        make(path, facts)
        if not facts["careless"]:
            return opened("made")
        carried = Path(facts["vault"]) / "carried"
        carried.mkdir(exist_ok=True)
        if path.is_file() or path.is_dir():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, carried / path.name)
            return opened("its content was carried")
        return opened(f"{path.name} is there") if path.exists() else closed("it is not there")

    # Whoever submitted it looks for this name among what was carried.
    vars(run)["makes"] = f"made-{make.__name__}"
    return run


def link_to_file(path: Path, facts: Facts) -> None:
    """A link to a file that only the bridge should read."""
    path.symlink_to(f"{facts['store']}/{facts['token']}/secret")


def link_to_folder(path: Path, facts: Facts) -> None:
    """A link to a folder of a store."""
    path.symlink_to(f"{facts['store']}/{facts['token']}")


def fifo(path: Path, _facts: Facts) -> None:
    """A pipe that whoever opens it waits for."""
    os.mkfifo(path)


def unix_socket(path: Path, _facts: Facts) -> None:
    """A socket in the file system."""
    with socket.socket(socket.AF_UNIX) as made:
        # Its own name may be too long for an address.
        os.chdir(path.parent)
        made.bind(path.name)


def second_name(path: Path, _facts: Facts) -> None:
    """A file with two names, one of which may be changed while the other is copied."""
    path.write_text("x")
    os.link(path, path.with_name(f"{path.name}-too"))


for letter, make, what in (
    ("a", link_to_file, "a link to a file of a store"),
    ("b", link_to_folder, "a link to a folder of a store"),
    ("c", fifo, "a pipe"),
    ("d", unix_socket, "a socket"),
    ("e", second_name, "a file with two names"),
):
    add(f"F4{letter}", f"{what} is collected from the outputs", _carried(make))


@probe("F4f", "a file of the node can be given a name in the outputs")
def hard_link(facts: Facts) -> Finding:
    """A hard link."""
    target = Path(facts["output"]) / "hard-link"
    os.link(f"{facts['store']}/{facts['token']}/secret", target)
    target.unlink()
    return opened("linked")


def _node(kind: int, device: int) -> Callable[[Facts], Finding]:
    def run(facts: Facts) -> Finding:
        path = Path(facts["scratch"]) / f"device-{kind}"
        os.mknod(path, kind | 0o600, device)
        path.unlink()
        return opened("made")

    return run


add("F5a", "a character device can be made", _node(stat.S_IFCHR, os.makedev(1, 3)), "root")
add("F5b", "a block device can be made", _node(stat.S_IFBLK, os.makedev(7, 0)), "root")


@probe("F6a", "a program that is root's by its mode gives its rights")
def set_user(facts: Facts) -> Finding:
    """Where there is one: on the node by arrangement, in an image by chance."""
    paths: Iterable[str] = [facts["suid"], "/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount"]

    def one(path: str) -> Finding:
        argv = [path] if path == facts["suid"] else [path, "--version"]
        status = os.stat(path)
        if not status.st_mode & stat.S_ISUID or status.st_uid:
            return closed("not root's")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=4, check=False)
        return opened("euid=0") if "euid=0" in done.stdout else closed("no gain")

    return any_of(list(paths), one)


@probe("F6b", "a mount lets programs change the user")
def not_nosuid(_facts: Facts) -> Finding:
    """Each should be nosuid."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [line[4] for line in lines if "nosuid" not in line[5].split(",")]
    return opened(found) if found else closed(f"{len(lines)} mounts")


def _handle(path: str) -> tuple[ctypes.Array[ctypes.c_char], int]:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + b"\0" * 128)
    mount = ctypes.c_int()
    call("name_to_handle_at", -100, path.encode(), handle, ctypes.byref(mount), 0)
    return handle, mount.value


@probe("F7a", "a file can be opened by its handle", "root")
def open_handle(facts: Facts) -> Finding:
    """A handle needs no path, and so knows no root."""
    base = os.open(facts["handle_folder"], os.O_RDONLY | os.O_DIRECTORY)
    handle: ctypes.Array[ctypes.c_char]
    try:
        handle, _ = _handle(facts["handle_folder"])
    except OSError:
        # The root folder of most file systems.
        handle = ctypes.create_string_buffer(struct.pack("=IiIi", 8, 1, 2, 0))
    os.close(call("open_by_handle_at", base, handle, os.O_RDONLY))
    return opened("opened")


@probe("F7b", "the handle of a file is told")
def tell_handle(facts: Facts) -> Finding:
    """The first half of the way."""
    return opened(f"mount {_handle(facts['handle_folder'])[1]}")


def inherited() -> list[int]:
    """Every descriptor beyond the first three. A probe's process opens none before it runs."""
    found = []
    for descriptor in range(3, 4096):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            continue
        found.append(descriptor)
    return found


@probe("F8a", "/proc/self/fd shows more than three descriptors")
def shown_descriptors(_facts: Facts) -> Finding:
    """But for the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    more = {name: path for name, path in found.items() if name > 2}
    return opened(more) if more else closed("three")


@probe("F8b", "a descriptor beyond the third answers")
def any_descriptor(_facts: Facts) -> Finding:
    """Also when /proc is not there."""
    return opened(inherited()) if inherited() else closed("3 to 4095 are closed")


@probe("F8c", "a descriptor leads to the node's files")
def through_descriptor(facts: Facts) -> Finding:
    """A folder that was left open is the whole tree."""

    def one(descriptor: int) -> Finding:
        path = f"{_UP}{facts['vault']}/secret".removeprefix("/")
        for way in (path, f"{facts['vault']}/secret".removeprefix("/")):
            try:
                found = os.open(way, os.O_RDONLY, dir_fd=descriptor)
                return opened(f"{descriptor}: {os.read(found, 60)!r}")
            except OSError:
                continue
        return closed("no folder of the node")

    return any_of([0, 1, 2, *inherited()], one)


@probe("F8d", "what is printed goes straight into a file of the node")
def printed(_facts: Facts) -> Finding:
    """Whoever holds a file can grow it, or shut it to its owner."""
    found = [number for number in (0, 1, 2) if stat.S_ISREG(os.fstat(number).st_mode)]
    return opened(found) if found else closed("no plain file")


def _through(paths: Callable[[Facts], list[str]]) -> Callable[[Facts], Finding]:
    return lambda facts: any_of(paths(facts), lambda path: holds(path, facts["secret"]))


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


add("F9a", "the root of process 1 is the node's",
    _through(lambda facts: [f"/proc/1/root{facts['vault']}/secret"]), "root")  # fmt: skip
add("F9b", "the root of a process is the node's",
    _through(lambda facts: [f"/proc/{one}/root{facts['vault']}/secret"
                            for one in _processes()]))  # fmt: skip
add("F9c", "the working directory of a process leads to the node",
    _through(lambda _: [f"/proc/{one}/cwd/secret" for one in _processes()]))  # fmt: skip


@probe("F9d", "a file that another process has open can be read")
def opened_by_another(facts: Facts) -> Finding:
    """Through its descriptors."""
    paths = []
    for one in _processes():
        try:
            names = os.listdir(f"/proc/{one}/fd")
            paths += [f"/proc/{one}/fd/{name}" for name in names]
        except OSError:
            continue
    # A pipe would be waited for.
    plain = [path for path in paths if os.path.isfile(path)]
    return any_of(plain, lambda path: holds(path, facts["secret"]))


def _in_mounts(words: list[str]) -> Finding:
    """The fourth column of mountinfo, and the sources."""
    text = Path("/proc/self/mountinfo").read_text()
    found = [word for word in words if word in text]
    return opened(found) if found else closed("none of the node's folders")


@probe("F10a", "the mounts tell where the data lies on the node")
def told_paths(facts: Facts) -> Finding:
    """Where data came from, what else is shared, where the bridge lies."""
    return _in_mounts([word for word in facts["told"] if word != "contexts"])


@probe("F10b", "the mounts tell where the context lies on the node")
def told_context(facts: Facts) -> Finding:
    """The path of the context ends with the id of the Process."""
    return _in_mounts(["contexts", "/shared"])


def _bounded(place: str) -> Callable[[Facts], Finding]:
    """Whether more than the bound would fit. One byte too many is asked for, none is written."""

    def run(facts: Facts) -> Finding:
        found = os.statvfs(facts[place])
        size = found.f_blocks * found.f_frsize
        if size > facts["bound_bytes"]:
            return opened(f"{size >> 20} MiB")
        path = Path(facts[place]) / "full"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size + 1)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return closed(f"ENOSPC above {size >> 20} MiB")
            raise
        finally:
            path.unlink()
        return opened(f"more than {size >> 20} MiB")

    return run


add("F11a", "the temporary files can fill the node", _bounded("scratch"))
add("F11b", "/dev/shm can fill the node's memory", _bounded("shm"))


@probe("F11c", "a file of the outputs can grow without end")
def file_size(facts: Facts) -> Finding:
    """It is given a size, and no content."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard == resource.RLIM_INFINITY:
        return opened("there is no limit")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(facts["output"]) / "grown"
    path.touch()
    try:
        os.truncate(path, hard + 1)
    finally:
        path.unlink()
    return opened(f"above {hard}")


@probe("F13", "a lock on an input is seen by whoever shares it")
def lock(facts: Facts) -> Finding:
    """A channel between two Processes with the same input, where inputs are shared."""
    with Path(facts["input_file"]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return opened("locked")


@probe("F14a", "a file without a name can be made among the inputs")
def nameless(facts: Facts) -> Finding:
    """O_TMPFILE."""
    os.close(os.open(facts["input"], os.O_TMPFILE | os.O_WRONLY, 0o600))
    return opened("made")


@probe("F14b", "a file without a name can be given one among the inputs")
def named_later(facts: Facts) -> Finding:
    """linkat by descriptor, from the place that can be written to."""
    descriptor = os.open(facts["scratch"], os.O_TMPFILE | os.O_WRONLY, 0o600)
    target = Path(facts["input"]) / "linked"
    os.link(f"/proc/self/fd/{descriptor}", target, follow_symlinks=True)
    target.unlink()
    return opened("linked")


@probe("F14c", "openat2 leads from the inputs to the node")
def openat2(facts: Facts) -> Finding:
    """With no flag that keeps it below."""
    base = os.open(facts["input"], os.O_RDONLY | os.O_DIRECTORY)
    path = f"{_UP}{facts['vault']}/secret".encode()
    how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_RDONLY, 0, 0), 24)
    return opened(os.read(call("openat2", base, path, how, 24), 60))
