"""A golden script, run under bash with stub programs.

The stubs stand in place of Apptainer, the sealing helpers, strace, squashfuse, unshare, mount and
zstd. A script sets its own PATH, and that of the container's start, to /usr/bin:/bin, so the folder
of the stubs is put before it in these two places. Nothing else of the text is changed, but times
that a test does not want to wait for.
"""

import hashlib
import os
import select
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.render import Equipment, Renderer
from slurmbridge.container.apptainer import OutputRules
from slurmbridge.context.folder import Contexts
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import ProcessSpec, parse_spec
from tests.support.builders import EQUIPMENT, GOLDEN, GOLDEN_ID, shipped_templates
from tests.support.specs import HELPERS, IMAGE

_TAKEN = OutputRules(1 << 30)
GOLDENS = sorted(GOLDEN.glob("*.toml"))
WAYS = (GOLDEN / "minimal.toml", GOLDEN / "traced-off.toml")
each_way = pytest.mark.parametrize("golden", WAYS, ids=lambda path: path.stem)
each_golden = pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
FIXED_PATH = "PATH=/usr/bin:/bin"
# How often outputs are weighed: a test that waits for what is left of the job waits for this too.
WEIGHED_OFTEN = ("while sleep 10", "while sleep 0.05")

# Found on PATH by the script. `out` is the folder in which they write what they saw.
PROGRAMS = {
    # The launcher; the container it starts ends with it, as a real one does.
    "apptainer": """
cat /proc/$$/environ >"$out/environ.apptainer"
printf '%s\\0' "$@" >"$out/argv"
trap 'echo launcher >>"$out/term"' TERM
setpriv --pdeathsig KILL "$out/../sealed" &
exec 3>&- 4<&-
wait $!
code=$?
while kill -0 $! 2>/dev/null; do
    wait $!
    code=$?
done
exit "$code"
""",
    "strace": """
cat /proc/$$/environ >"$out/environ.strace"
printf '%s\\0' "$@" >"$out/strace"
while [[ $1 != -- ]]; do
    [[ $1 != --output=* ]] || exec 8>"${1#--output=}"
    [[ $1 != --env=* ]] || unset "${1#--env=}"
    shift
done
shift
echo record >&8
exec "$@"
""",
    "zstd": """
while [ "$1" != -o ]; do shift; done
exec cat >"$2"
""",
    "squashfuse_ll": """
for folder; do :; done
printf '%s\\0' "$@" >"$out/squashfuse${folder#root}"
exec sleep 60
""",
    # The image is there when its server has begun.
    "mountpoint": """[ -e "$out/squashfuse${2#root}" ]""",
    "umount": "exit 0",
    "mount": """echo "$*" >>"$out/mounts" """,
    "env": """
printf '%s\\0' "$@" >>"$out/env"
exec /usr/bin/env "$@"
""",
    "unshare": """
printf '%s\\0' "$@" >"$out/unshare"
while [[ $1 != -- ]]; do shift; done
shift
exec "$@"
""",
}
# What sbseal does, and then the program.
SEALED = """
echo $$ >"$out/pid"
[[ ! -e $out/before ]] || source "$out/before"
cat "$out/inside" >&3
echo end >&3
IFS= read -r word <&4 && [[ $word == go ]] || exit 78
exec 3>&- 4<&-
touch "$out/started"
stat --dereference --format=%F /proc/$$/fd/{1,2} >"$out/kinds"
cat /proc/[0-9]*/cmdline >"$out/argvs" 2>/dev/null
cp pod/sb/command pod/sb/environment "$out"
ln -sfn "$PWD/$([[ -d pod/output ]] && echo pod/)output" "$out/output"
echo printed
echo complained >&2
[[ ! -e $out/program ]] || source "$out/program"
exit "$(<"$out/exit")"
"""
# Looked for in the folder of the helpers, and copied from there.
SBSEAL = "exit 99"
SBPROBE = """
printf '%s\\0' "$@" >"$out/probe"
[[ ! -e $out/blind ]] || exit 1
echo "pid $(<"$out/pid")"
cat "$out/outside"
"""


@dataclass
class Stage:
    """A context, a script for it, and what the stubs saw."""

    spec: ProcessSpec
    root: Path
    context: Path
    script: Path

    @property
    def out(self) -> Path:
        """What the stubs write and are told."""
        return self.root / "out"

    @property
    def image(self) -> Path:
        """The image file."""
        return self.root / "image of a site's own.sif"

    @property
    def requirements(self) -> Path:
        """The image of what was installed, if something was."""
        return self.root / "requirements of a site's own.sqsh"

    @property
    def log(self) -> Path:
        """What Slurm would write to job.log."""
        return self.out / "job.log"

    def start(self, job_id: int = 7) -> "subprocess.Popen[bytes]":
        """Start it as Slurm does."""
        environment = {
            "SLURM_JOB_ID": str(job_id),
            "SLURMD_NODENAME": "node1",
            "RUNNER_TOKEN": "secret",
            "HOME": "/root",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["/bin/bash", str(self.script)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, job_id: int = 7) -> int:
        """Run it to its end; its exit code."""
        child = self.start(job_id)
        try:
            return awaited(child, 20)
        finally:
            end_group(child)

    def replace(self, *pairs: tuple[str, str]) -> None:
        """Change the text of the script: each first one, which stands there once."""
        text = self.script.read_text()
        for old, new in pairs:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.script.write_text(text)

    def stub(self, name: str, body: str) -> None:
        """Put another program in the place of a stub."""
        _write(self.root / "stubs" / name, self.out, body)

    def before(self, text: str) -> None:
        """What the container does before it tells the first fact."""
        (self.out / "before").write_text(text)

    def program(self, text: str) -> None:
        """What the program does."""
        (self.out / "program").write_text(text)

    def found(self, *lines: str) -> None:
        """Let the probe inside find these, too."""
        with (self.out / "inside").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def not_found(self, *lines: str) -> None:
        """Let neither probe find these."""
        for side in ("inside", "outside"):
            path = self.out / side
            kept = [line for line in path.read_text().splitlines() if line not in lines]
            path.write_text("".join(f"{line}\n" for line in kept))

    def left(self, name: str) -> str | None:
        """What lies in the context under this name."""
        path = self.context / name
        return path.read_text().strip() if path.exists() else None

    def seen(self, name: str) -> list[bytes]:
        """What a stub saw, NUL-ended items."""
        return (self.out / name).read_bytes().removesuffix(b"\0").split(b"\0")

    @property
    def container_was_started(self) -> bool:
        """Whether Apptainer was called."""
        return (self.out / "argv").exists()

    @property
    def program_was_started(self) -> bool:
        """Whether it came through the gate."""
        return (self.out / "started").exists()

    def refused(self) -> str | None:
        """Run it: it is refused, with the exit code that says so, and no program has run."""
        assert self.run() == 78
        assert self.left("exit_code") == "78"
        assert not self.program_was_started
        return self.left("refused")


def staged(
    golden: Path,
    root: Path,
    *,
    log_limit: int = 1 << 20,
    taken: OutputRules = _TAKEN,
    code_sha256: str | None = None,
    trace_limit: int = 1 << 30,
    **changes: Any,
) -> Stage:
    """A golden specification, changed, made ready to run."""
    out, contexts = root / "out", root / "contexts"
    for new in (out, contexts, root / "stubs", root / "helpers"):
        new.mkdir()
    for name, body in PROGRAMS.items():
        _write(root / "stubs" / name, out, body)
    _write(root / "sealed", out, SEALED)
    helpers = HELPERS.model_copy(
        update={
            "path": str(root / "helpers"),
            "sbseal_sha256": _write(root / "helpers/sbseal", out, SBSEAL),
            "sbprobe_sha256": _write(root / "helpers/sbprobe", out, SBPROBE),
        }
    )
    (out / "exit").write_text("0")
    wanted = parse_spec(tomllib.loads(golden.read_text()) | changes)
    stage = Stage(wanted, root, contexts / GOLDEN_ID, root / "script.sbatch")
    stage.image.write_bytes(b"an image")
    sha256 = hashlib.sha256(b"an image").hexdigest()
    image = IMAGE.model_copy(update={"path": str(stage.image), "sha256": sha256})

    renderer = Renderer(shipped_templates(), contexts, log_limit, taken, trace_limit)
    equipment = _equipment(stage.requirements) if wanted.requirements else None
    text = renderer.render(
        GOLDEN_ID, wanted, image, helpers, equipment, code_sha256=code_sha256
    ).text
    assert text.count(FIXED_PATH) == 2
    stage.script.write_text(text.replace(FIXED_PATH, f"PATH={root}/stubs:/usr/bin:/bin"))
    prepared = renderer.prepared(GOLDEN_ID, wanted, image, equipment)
    Contexts(LocalFiles(), contexts).of(GOLDEN_ID).make(
        prepared.command, prepared.environment, prepared.expected_facts
    )
    _tell(out, prepared.expected_facts.decode().splitlines())
    return stage


def _equipment(path: Path) -> Equipment:
    path.write_bytes(b"installed")
    sha256 = hashlib.sha256(b"installed").hexdigest()
    return Equipment(str(path), EQUIPMENT.found.model_copy(update={"sha256": sha256}))


def _write(path: Path, out: Path, body: str) -> str:
    # sh starts sooner where it is another shell; it hands no functions on.
    shell = "bash" if "[[" in body or "$(<" in body else "sh"
    content = f"#!/bin/{shell}\nout={out}\n{body}\n".encode()
    path.write_bytes(content)
    path.chmod(0o755)
    return hashlib.sha256(content).hexdigest()


def _tell(out: Path, expected: list[str]) -> None:
    required = [f"{line}\n" for line in expected if not line.startswith("? ")]
    outside = [line for line in required if line.startswith("outside ")]
    # In the order in which a probe looks, which is not that of the expectation.
    inside = [line for line in reversed(required) if line not in outside]
    (out / "inside").write_text("".join(inside))
    (out / "outside").write_text("".join(outside))


def awaited(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Its exit code. Popen.wait looks only 20 times a second when it is given a deadline."""
    descriptor = os.pidfd_open(child.pid)
    try:
        assert select.select([descriptor], [], [], seconds)[0], "it did not end"
    finally:
        os.close(descriptor)
    return child.wait()


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def soon(what: Callable[[], bool]) -> bool:
    """Whether it comes true within 10 s."""
    deadline = time.monotonic() + 10
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def running_below(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                found.append((entry / "comm").read_text())
        except OSError:
            continue
    return found
