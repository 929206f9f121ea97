"""Does exactly what tests/support/truth/expected.py says, the same as prog.c.

prog.py ROOT [ADDRESS4 ADDRESS6]: below ROOT lie input, code, output and tmp; the addresses lead
nowhere and are given in a container alone.
"""
# The calls themselves are what counts.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH211, T201

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

LISTENER, CLOSED, NOBODY = 21017, 21019, 21020
ROOT, FAR = sys.argv[1].encode(), sys.argv[2:]
MAKES = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
STRANGE = [
    b"sp ace", b"new\nline", b"quo\"te'", b"\xff\xfe", b"back\\slash", b"\xc3\xbc", b"<angle>",
    b"\n1 1.000000 +++ exited with 0 +++\n",
]  # fmt: skip


def below(path: bytes) -> bytes:
    return ROOT + path


def make(path: bytes, size: int, flags: int = MAKES, folder: int | None = None) -> None:
    file = os.open(path, flags, 0o644, dir_fd=folder)
    assert os.write(file, bytes(size)) == size
    os.close(file)


def look(path: bytes) -> None:
    file = os.open(path, os.O_RDONLY)
    while os.read(file, 4096):
        pass
    os.close(file)


def fails(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    except OSError:
        return
    raise AssertionError(arguments)


def outputs() -> None:
    make(below(b"/output/made"), 12345)
    os.rename(below(b"/output/made"), below(b"/output/renamed"))
    os.link(below(b"/output/renamed"), below(b"/output/hard"))
    os.symlink(b"renamed", below(b"/output/soft"))
    look(below(b"/output/soft"))
    os.mkdir(below(b"/output/folder"))
    os.chdir(below(b"/output/folder"))
    make(b"inside", 2)
    os.unlink(b"inside")
    os.chdir(b"..")
    make(b"./folder/../relative", 3)
    fails(os.open, b"absent", os.O_RDONLY)
    folder = os.open(below(b"/output/folder"), os.O_PATH | os.O_DIRECTORY)
    make(b"by-folder", 4, os.O_RDWR | os.O_CREAT, folder)
    os.rename(b"by-folder", b"moved", src_dir_fd=folder, dst_dir_fd=folder)
    os.unlink(b"moved", dir_fd=folder)
    os.mkdir(b"sub", dir_fd=folder)
    os.rmdir(b"sub", dir_fd=folder)
    os.fchdir(folder)
    os.close(folder)
    make(b"after-fchdir", 5)
    for name in STRANGE:
        make(below(b"/output/" + name), 1)


def temporary() -> None:
    scratch, closed = below(b"/tmp/scratch"), below(b"/tmp/closed")
    make(scratch, 200)
    os.chmod(scratch, 0o640)
    os.truncate(scratch, 100)
    os.unlink(scratch)
    os.mkfifo(below(b"/tmp/pipe"), 0o600)
    one, two = below(b"/tmp/one"), below(b"/tmp/two")
    make(one, 1)
    make(two, 2)
    assert ctypes.CDLL(None).renameat2(-100, one, -100, two, 2) == 0
    make(closed, 0)
    os.chmod(closed, 0)
    fails(os.open, closed, os.O_RDONLY)
    fails(os.open, below(b"/input/data.csv"), os.O_WRONLY)


def threads() -> None:
    both = [
        threading.Thread(target=make, args=(below(b"/output/thread-%d" % number), 6))
        for number in (1, 2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def child_doing(what: Callable[[], Any]) -> int:
    child = os.fork()
    if not child:
        try:
            what()
        finally:
            os._exit(91)
    return child


def executing(path: str, *argv: bytes) -> None:
    assert ended(child_doing(lambda: os.execve(path, argv, {}))) == 0


def simple_children() -> None:
    assert ended(child_doing(lambda: os._exit(3))) == 3
    executing("/bin/true", b"true", b"a b", b'q"uote', b"new\nline", b"\xff", b"")
    assert ended(os.posix_spawn("/bin/false", ["false"], {})) == 1
    subprocess.run(["/bin/true", "vforked"], env={}, close_fds=False, check=True)
    executing("/bin/sh", b"sh", b"-c", b"exec /bin/true twice")


def refused() -> None:
    fails(os.execve, below(b"/output/missing"), ["missing"], {})
    fails(os.execve, below(b"/tmp/closed"), ["closed"], {})
    os._exit(5)


def wait_for_ever() -> None:
    while True:
        signal.pause()


def killed_children() -> None:
    assert ended(child_doing(lambda: os.kill(os.getpid(), signal.SIGKILL))) == -9
    child = child_doing(wait_for_ever)
    os.kill(child, signal.SIGTERM)
    assert ended(child) == -15
    assert ended(child_doing(refused)) == 5


def orphan() -> None:
    """It begins only when its parent is gone, and is gone before the program is."""
    (told, tell), (gate, opener) = os.pipe(), os.pipe()

    def last() -> None:
        assert os.read(gate, 1) == b""
        make(below(b"/output/orphan"), 7)
        os._exit(7)

    def middle() -> None:
        os.close(opener)
        os.write(tell, b"%d" % child_doing(last))
        os._exit(0)

    child = child_doing(middle)
    os.close(gate)
    end = select.poll()
    end.register(os.pidfd_open(int(os.read(told, 20))), select.POLLIN)
    assert ended(child) == 0
    os.close(opener)
    assert end.poll(30_000)


def internet() -> None:
    inet, stream, datagram = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
    here = ("127.0.0.1", LISTENER)
    fails(socket.socket(inet, stream).connect, ("127.0.0.1", CLOSED))
    assert socket.socket(inet, datagram).sendto(b"x", ("127.0.0.1", NOBODY)) == 1
    listener, caller = socket.socket(inet, stream), socket.socket(inet, stream)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(here)
    listener.listen(1)
    caller.connect(here)
    listener.accept()
    if FAR:
        there = (FAR[0], 443)
        fails(socket.socket(inet, stream).connect, there)
        fails(socket.socket(inet, datagram).sendto, b"x", there)
        fails(socket.socket(socket.AF_INET6, stream).connect, (FAR[1], 443))


def unix_sockets() -> None:
    listener, caller, other = (socket.socket(socket.AF_UNIX) for _ in range(3))
    listener.bind(below(b"/tmp/socket"))
    listener.listen(1)
    caller.connect(below(b"/tmp/socket"))
    listener.accept()
    fails(other.connect, below(b"/tmp/nobody"))
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(b"\0truth")
    socket.socketpair()
    os.unlink(below(b"/tmp/socket"))


look(below(b"/input/data.csv"))
look(below(b"/code/prog.c"))
look(b"/etc/hostname")
look(b"/proc/self/status")
make(b"/dev/null", 9, os.O_WRONLY | os.O_CREAT)
fails(os.open, b"/home/truth", os.O_RDONLY)
if FAR:
    make(b"/dev/made", 1)
outputs()
temporary()
threads()
simple_children()
killed_children()
orphan()
internet()
unix_sockets()
print("done")
