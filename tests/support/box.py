"""A program under the real sbseal on this host: no container, but all that sbseal itself does."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMITS = ("nproc=4096", "nofile=256", "fsize=1000000")
GO = b"go\n"
NOBODY = 65534
# sbseal gets its two pipes as 3 and 4; the numbers that they had before stay open, as a launcher's
# carelessness would leave them.
_HAND_OVER = 'exec 3>&"$1" 4<&"$2"; shift 2; exec "$@"'
# A pid namespace of its own, where sbseal is process 1.
PID_NAMESPACE = (
    "unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
    "--pid", "--fork", "--kill-child", "--mount-proc", "--",
)  # fmt: skip
AS_NOBODY = (
    ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    if os.geteuid() == 0
    else ()
)


@dataclass(frozen=True)
class End:
    """How a run ended."""

    code: int
    out: bytes
    err: bytes
    facts: bytes


class Box:
    """A folder as the script prepares it: the helpers, a command, an environment."""

    def __init__(self, folder: Path, helpers: Path) -> None:
        self.folder = folder
        self.marker = folder / "open/marker"
        self.marker.parent.mkdir()
        for name in ("sbseal", "sbprobe"):
            shutil.copy(helpers / name, folder / name)
            (folder / name).chmod(0o755)
        self.set_command(["touch", str(self.marker)])
        self.set_environment([b"PATH=/usr/bin:/bin"])
        folder.chmod(0o755)
        self.marker.parent.chmod(0o777)

    def set_command(self, items: Sequence[str | bytes]) -> None:
        self._write("command", items)

    def set_environment(self, items: Sequence[str | bytes]) -> None:
        self._write("environment", items)

    def _write(self, name: str, items: Sequence[str | bytes]) -> None:
        (self.folder / name).write_bytes(b"".join(os.fsencode(item) + b"\0" for item in items))

    def replace_probe(self, text: str) -> None:
        """Let a shell script stand in for the probe."""
        (self.folder / "sbprobe").unlink()
        (self.folder / "sbprobe").write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / "sbprobe").chmod(0o755)

    def run(
        self,
        command: Sequence[str | bytes] | None = None,
        *,
        prefix: Sequence[str] = (),
        word: bytes = GO,
        arguments: Sequence[str] | None = None,
        hand_over: str = _HAND_OVER,
        meanwhile: Callable[[int], None] = lambda _: None,
    ) -> End:
        """Start sbseal, let it start the program, and wait for the end of both."""
        if command is not None:
            self.set_command(command)
        if arguments is None:
            arguments = (str(self.folder), *LIMITS)
        facts_out, facts_in = _pipe()
        gate_out, gate_in = _pipe()
        os.write(gate_in, word)
        os.close(gate_in)
        argv = ("bash", "-c", hand_over, "bash", str(facts_in), str(gate_out))
        with subprocess.Popen(
            (*argv, *prefix, str(self.folder / "sbseal"), *arguments),
            pass_fds=(facts_in, gate_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
        ) as process:
            os.close(facts_in)
            os.close(gate_out)
            try:
                meanwhile(process.pid)
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
        with os.fdopen(facts_out, "rb") as facts:
            return End(process.returncode, out, err, facts.read())


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
    for end in ends:
        os.close(end)
    # All facts fit, so that nobody has to read while the container runs.
    fcntl.fcntl(high[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    return high[0], high[1]


def first_child(pid: int) -> int:
    """The process that `pid` has started, as soon as there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    _until(lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


def wait_for(path: Path) -> None:
    """Until a program has made a file."""
    _until(path.exists)


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)
