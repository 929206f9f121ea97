"""What a node has while probes run: listeners, secrets, devices, and a process of the same user.

`python3 -m escape.stage PLAN` runs as root of a node, prints what the probes have to know, and
takes everything away again when its standard input ends.
"""

import contextlib
import ctypes
import json
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .calls import call, checked, libc
from .mounts import STAND_INS
from .slurm import SOCKETS

_CREATE = 0o1000
_NULL = os.makedev(1, 3)


def _command(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@contextlib.contextmanager
def _made(path: Path) -> Iterator[Path]:
    """A path whose missing parents are made, and taken away with it."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # For everybody, so that only a seal hides what is below.
    for parent in missing:
        parent.chmod(0o755)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _serve(listener: socket.socket) -> None:
    """Accept, and hang up."""

    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    threading.Thread(target=loop, daemon=True).start()


def _echo(listener: socket.socket) -> None:
    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = listener.recvfrom(100)
                if sender:
                    listener.sendto(data, sender)

    threading.Thread(target=loop, daemon=True).start()


def _listen(stack: contextlib.ExitStack, family: int, address: Any) -> None:
    made = stack.enter_context(socket.socket(family))
    if family == socket.AF_INET:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.listen()
    _serve(made)


def _links(stack: contextlib.ExitStack, plan: dict[str, Any]) -> None:
    """The address that clouds answer on, and a link with IPv6 that leads nowhere."""
    metadata = f"{plan['metadata'][0]}/32"
    _command("ip", "addr", "add", metadata, "dev", "lo")
    stack.callback(_command, "ip", "addr", "del", metadata, "dev", "lo")
    _listen(stack, socket.AF_INET, (plan["metadata"][0], plan["metadata_port"]))
    _command("ip", "link", "add", "sbprobe1", "type", "veth", "peer", "name", "sbprobe2")
    stack.callback(_command, "ip", "link", "del", "sbprobe1")
    Path("/proc/sys/net/ipv6/conf/sbprobe1/disable_ipv6").write_text("0")
    _command("ip", "addr", "add", f"{plan['link_local']}/64", "dev", "sbprobe1", "nodad")
    for name in ("sbprobe1", "sbprobe2"):
        _command("ip", "link", "set", name, "up")


def _files(stack: contextlib.ExitStack, plan: dict[str, Any]) -> None:
    """Devices, sockets and secrets that a node may have."""
    for name in STAND_INS:
        path = stack.enter_context(_made(Path(name)))
        os.mknod(path, stat.S_IFCHR | 0o666, _NULL)
        path.chmod(0o666)
    for _, name, _ in SOCKETS:
        path = stack.enter_context(_made(Path(name)))
        _listen(stack, socket.AF_UNIX, name)
        path.chmod(0o666)
    for name in ("/etc/slurm/slurm.key", "/etc/slurm/slurm.jwks", plan["configuration"],
                 f"{plan['state']}/slurmbridge.db", f"/run/user/{plan['uid']}/secret"):  # fmt: skip
        path = stack.enter_context(_made(Path(name)))
        path.write_text(plan["secret"])
        path.chmod(0o644)
    namespace = stack.enter_context(_made(Path(f"/run/netns/{plan['token']}")))
    namespace.touch()
    _command("mount", "--bind", "/proc/self/ns/net", str(namespace))
    stack.callback(_command, "umount", str(namespace))


def _vault(stack: contextlib.ExitStack, plan: dict[str, Any]) -> None:
    """A folder of the service user in /tmp, with a home that is full of traps."""
    vault, home, secret = Path(plan["vault"]), Path(plan["home"]), plan["secret"]
    vault.mkdir(mode=0o755)
    stack.callback(shutil.rmtree, vault)
    for name in ("input", "code", "scratch", "seal", "carried"):
        (vault / name).mkdir()
    files = {
        vault / "secret": secret,
        vault / "input/table": secret,
        home / ".gitconfig": "[http]\nproxy = http://proxy.invalid\n",
        home / ".netrc": "machine host.invalid password p\n",
        home / ".Xauthority": secret,
        home / ".ssh/config": "Host *\nProxyCommand false\n",
        home / ".ssh/id_ed25519": secret,
        home / ".config/slurmbridge/token": secret,
        home / ".apptainer/remote.yaml": secret,
        home / ".startup.py": f"print({secret!r})\n",
    }
    for name in (".bashrc", ".profile", ".shell"):
        files[home / name] = f"echo {secret}\n"
    for version in ("3.13", "3.14"):
        files[home / f".local/lib/python{version}/site-packages/usercustomize.py"] = ""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in (vault, *vault.rglob("*")):
        os.chown(path, plan["uid"], plan["uid"])
    shutil.copy("/usr/bin/id", plan["suid"])
    Path(plan["suid"]).chmod(0o4755)


def _shared(stack: contextlib.ExitStack, plan: dict[str, Any]) -> None:
    """What processes of one user share by numbers and names."""
    key = plan["sysv_key"]
    memory = checked(libc.shmget(key, 4096, _CREATE | 0o600))
    stack.callback(libc.shmctl, memory, 0, 0)
    semaphore = checked(libc.semget(key, 1, _CREATE | 0o600))
    stack.callback(libc.semctl, semaphore, 0, 0)
    messages = checked(libc.msgget(key, _CREATE | 0o600))
    stack.callback(libc.msgctl, messages, 0, 0)
    queue = plan["queue"].encode()
    os.close(call("mq_open", queue, os.O_CREAT | os.O_RDWR, 0o600, 0))
    stack.callback(libc.mq_unlink, b"/" + queue)
    stack.enter_context(_made(Path("/dev/shm") / plan["queue"])).write_text(plan["secret"])


def _key(plan: dict[str, Any]) -> int:
    """A key in the user's keyring. The process has to own it to open it to its user."""
    secret = plan["secret"].encode()
    key = call("add_key", b"user", plan["user_key"].encode(), secret, len(secret), -2)
    call("keyctl", 5, key, 0x3F3F0000)
    call("keyctl", 8, key, -4)
    return key


def _forget(key: int) -> None:
    # On a kernel that several nodes share, another one's key may have taken its place.
    with contextlib.suppress(OSError):
        call("keyctl", 9, key, -4)


def _service_user(stack: contextlib.ExitStack, plan: dict[str, Any]) -> dict[str, Any]:
    """As the service user: listeners, keys, an agent, and a process with a secret in its memory."""
    os.environ["HELD_SECRET"] = plan["secret"]
    os.chdir(plan["vault"])
    # Held open, so that others may try to read it through this process.
    held = os.open("secret", os.O_RDONLY)
    mapped = mmap.mmap(held, 0, prot=mmap.PROT_READ)
    for address in ("127.0.0.1", "127.77.77.77"):
        _listen(stack, socket.AF_INET, (address, plan["port"]))
    datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", plan["port"]))
    _echo(datagrams)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        made = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        made.bind(f"\0{plan['abstract']}-{kind.name}")
        if kind == socket.SOCK_DGRAM:
            _echo(made)
        else:
            made.listen()
            _serve(made)
    _shared(stack, plan)
    key = _key(plan)
    stack.callback(_forget, key)
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", plan["agent"]], stdout=subprocess.DEVNULL)
    stack.callback(agent.wait)
    # TERM is held back here, and so it is there.
    stack.callback(agent.kill)
    room = ctypes.create_string_buffer(plan["secret"].encode())
    victim = {"pid": os.getpid(), "address": ctypes.addressof(room)}
    # Kept alive by being part of what is returned until the end.
    stack.callback(lambda: (room, mapped))
    return {"victims": [victim], "keys": [key]}


def _wait_for_end() -> None:
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        sys.stdin.buffer.read()


def _become_service_user(plan: dict[str, Any], writing: int) -> None:
    os.setgroups([])
    os.setresgid(plan["uid"], plan["uid"], plan["uid"])
    os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    # A process that changed its user cannot be looked into by that user until it says so.
    libc.prctl(4, 1, 0, 0, 0)
    with contextlib.ExitStack() as stack:
        with os.fdopen(writing, "w") as told:
            json.dump(_service_user(stack, plan), told)
        signal.sigwait([signal.SIGTERM])


def _as_service_user(plan: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A process that stays, and what it told."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            _become_service_user(plan, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            # What the parent set up is the parent's to take away.
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        return process, json.loads(told.read())


def main(plan_file: str) -> None:
    """Set the stage, tell of it, and clear it in the end."""
    plan = json.loads(Path(plan_file).read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with contextlib.ExitStack() as stack:
        _vault(stack, plan)
        process, told = _as_service_user(plan)
        stack.callback(os.waitpid, process, 0)
        stack.callback(os.kill, process, signal.SIGTERM)
        _links(stack, plan)
        _files(stack, plan)
        print(json.dumps(told), flush=True)  # noqa: T201 (this is its answer)
        _wait_for_end()


if __name__ == "__main__":
    main(sys.argv[1])
