"""The scripts that are submitted: as reviewed, sound as shell, and run under bash.

They run with stub programs in place of Apptainer, strace, squashfuse, unshare and zstd. A script
sets its own PATH, and that of the container's start, to /usr/bin:/bin, so the folder of the stubs
is put before it in these two places; nothing else of the text is changed.
"""

import hashlib
import os
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.render import Renderer
from slurmbridge.context.folder import ContextFolder
from slurmbridge.model import ProcessSpec, parse_spec
from slurmbridge.script import words
from tests.support.builders import GOLDEN, GOLDEN_ID, golden_script, shipped_templates
from tests.support.specs import IMAGE

GOLDENS = sorted(GOLDEN.glob("*.toml"))
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
FIXED_PATH = "PATH=/usr/bin:/bin"
# Every bash gives these to what it starts; those of the stubs, being bash as well, give two more.
BY_BASH = {b"PATH", b"_"}
BY_STUBS = BY_BASH | {b"PWD", b"SHLVL"}
WAYS = (GOLDEN / "minimal.toml", GOLDEN / "traced-off.toml")
each_way = pytest.mark.parametrize("golden", WAYS, ids=lambda path: path.stem)
each_golden = pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)

STUBS = {
    "apptainer": """
cat /proc/$$/environ >"$out/environ.apptainer"
[[ -e $out/environ ]] || cp "$out/environ.apptainer" "$out/environ"
printf '%s\\0' "$@" >"$out/argv"
stat --dereference --format=%F /proc/$$/fd/{1,2} >"$out/kinds"
cat /proc/[0-9]*/cmdline >"$out/argvs" 2>/dev/null || true
echo printed
echo complained >&2
[[ ! -e $out/program ]] || source "$out/program"
[[ ! -e $out/sleep ]] || exec sleep 60
exit "$(<"$out/exit")"
""",
    "strace": """
cat /proc/$$/environ >"$out/environ"
printf '%s\\0' "$@" >"$out/strace"
while [[ $1 != -- ]]; do
    [[ $1 != --output=* ]] || exec 3>"${1#--output=}"
    shift
done
shift
echo record >&3
exec "$@"
""",
    "zstd": """
while [[ $1 != -o ]]; do shift; done
exec cat >"$2"
""",
    "squashfuse_ll": """
printf '%s\\0' "$@" >"$out/squashfuse"
exec sleep 60
""",
    "mountpoint": "exit 0",
    "env": """
printf '%s\\0' "$@" >>"$out/env"
exec /usr/bin/env "$@"
""",
    "unshare": """
while [[ $1 != -- ]]; do shift; done
shift
exec "$@"
""",
}


@dataclass
class Stage:
    """A context, a script for it, and what the stubs saw."""

    spec: ProcessSpec
    context: Path
    out: Path
    script: Path

    def start(self, job_id: int = 7) -> "subprocess.Popen[bytes]":
        environment = {"SLURM_JOB_ID": str(job_id), "RUNNER_TOKEN": "secret", "HOME": "/root"}
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
        child = self.start(job_id)
        try:
            return awaited(child, 20)
        finally:
            end_group(child)

    @property
    def log(self) -> Path:
        """What Slurm would write to job.log."""
        return self.out / "job.log"

    def left(self, name: str) -> str | None:
        path = self.context / name
        return path.read_text().strip() if path.exists() else None

    def seen(self, name: str) -> list[bytes]:
        return (self.out / name).read_bytes().removesuffix(b"\0").split(b"\0")

    def variables(self, name: str, *, besides: set[bytes]) -> list[bytes]:
        return [line for line in self.seen(name) if line.partition(b"=")[0] not in besides]

    @property
    def apptainer_was_called(self) -> bool:
        return (self.out / "argv").exists()


def awaited(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Its exit code. Popen.wait looks only 20 times a second when it is given a deadline."""
    descriptor = os.pidfd_open(child.pid)
    try:
        assert select.select([descriptor], [], [], seconds)[0], "it did not end"
    finally:
        os.close(descriptor)
    return child.wait()


def end_group(child: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def staged(golden: Path, root: Path, *, log_limit: int = 1 << 20, **changes: Any) -> Stage:
    out, stubs, contexts = root / "out", root / "stubs", root / "contexts"
    for new in (out, stubs, contexts):
        new.mkdir()
    for name, body in STUBS.items():
        stub = stubs / name
        stub.write_text(f"#!/bin/bash\nout={out}\n{body}")
        stub.chmod(0o755)
    (out / "exit").write_text("0")
    image_file = root / "image of a site's own.sif"
    image_file.write_bytes(b"an image")
    sha256 = hashlib.sha256(b"an image").hexdigest()
    image = IMAGE.model_copy(update={"path": str(image_file), "sha256": sha256})

    spec = parse_spec(tomllib.loads(golden.read_text()) | changes)
    renderer = Renderer(shipped_templates(), contexts, log_limit)
    text = renderer.render(GOLDEN_ID, spec, image).text
    assert text.count(FIXED_PATH) == 2
    script = root / "script.sbatch"
    script.write_text(text.replace(FIXED_PATH, f"PATH={stubs}:/usr/bin:/bin"))
    folder = ContextFolder(contexts, GOLDEN_ID)
    variables = [f"{name}={value}" for name, value in spec.environment.items()]
    folder.make(words(spec.command), words(variables))
    return Stage(spec, folder.path, out, script)


@pytest.fixture
def minimal(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "minimal.toml", tmp_path)


# --- as reviewed ---


def test_every_golden_script_has_a_specification_and_every_specification_one() -> None:
    scripts = {path.stem for path in GOLDEN.glob("*.sbatch")}
    assert scripts == {path.stem for path in GOLDENS}
    assert {"minimal", "full", "traced-off", "trace-full", "hostile"} <= scripts


@each_golden
def test_a_golden_script_is_what_would_be_submitted(golden: Path) -> None:
    reviewed = golden.with_suffix(".sbatch").read_text()
    assert reviewed == golden_script(golden), "run ci/golden and review its difference"


@each_golden
def test_bash_can_read_a_golden_script(golden: Path) -> None:
    subprocess.run(["/bin/bash", "-n", golden.with_suffix(".sbatch")], check=True)


def test_shellcheck_finds_nothing_in_the_golden_scripts() -> None:
    scripts = [str(golden.with_suffix(".sbatch")) for golden in GOLDENS]
    found = subprocess.run([SHELLCHECK, *scripts], check=False, capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("", 0)


def test_of_command_and_environment_nothing_is_in_the_script() -> None:
    hostile = (GOLDEN / "hostile.sbatch").read_text()
    minimal = (GOLDEN / "minimal.sbatch").read_text()
    assert hostile == minimal


# --- run ---


@each_way
@pytest.mark.parametrize("code", [0, 1, 77, 200])
def test_the_programs_exit_code_is_kept_and_is_the_scripts_own(
    golden: Path, code: int, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    (stage.out / "exit").write_text(str(code))
    assert stage.run() == code
    assert stage.left("exit_code") == str(code)
    assert stage.left("refused") is None
    assert (stage.left("stdout.txt"), stage.left("stderr.txt")) == ("printed", "complained")


@each_golden
def test_command_and_environment_arrive_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    assert stage.run() == 0
    argv = stage.seen("argv")
    command = [word.encode() for word in stage.spec.command]
    assert argv[-len(command) :] == command
    assert argv[-len(command) - 1] == b"root"
    wanted = {b"HOME=/nonexistent"} | {
        f"APPTAINERENV_{name}={value}".encode() for name, value in stage.spec.environment.items()
    }
    # What the first program of the chain is given, and what then reaches the container's start.
    assert set(stage.variables("environ", besides=BY_BASH)) == wanted
    assert set(stage.variables("environ.apptainer", besides=BY_STUBS)) == wanted
    assert not list(tmp_path.rglob("owned"))


@each_golden
def test_nothing_of_the_specification_stands_before_the_container(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    assert stage.run() == 0
    before = stage.seen("argv")[: -len(stage.spec.command) - 1]
    fixed = [word.replace(b"\0", b"") for word in before if b"--mount=" not in word]
    assert all(word.startswith(b"--") for word in fixed if word != b"exec")
    assert not set(before) & {word.encode() for word in stage.spec.command}


@each_golden
def test_what_is_traced_leaves_a_record_and_what_is_not_leaves_none(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    assert stage.run() == 0
    traced = stage.spec.trace != "off"
    assert (stage.left("trace.zst") == "record") is traced
    assert (stage.out / "strace").exists() is traced


def test_the_image_is_served_from_the_offset_on(minimal: Stage) -> None:
    assert minimal.run() == 0
    options = minimal.seen("squashfuse")[2].decode().split(",")
    assert options[0] == f"offset={IMAGE.squashfs_offset}"


def test_an_empty_environment_stays_empty(minimal: Stage) -> None:
    assert minimal.run() == 0
    assert minimal.variables("environ", besides=BY_BASH) == [b"HOME=/nonexistent"]


def test_a_second_job_in_the_same_context_does_nothing(minimal: Stage) -> None:
    (minimal.out / "exit").write_text("3")
    assert minimal.run(job_id=7) == 3
    (minimal.out / "argv").unlink()
    assert minimal.run(job_id=8) == 75
    assert not minimal.apptainer_was_called
    assert minimal.left("exit_code") == "3"
    assert (minimal.context / "claim").readlink() == Path("7")


def test_a_job_that_is_started_again_does_nothing_either(minimal: Stage) -> None:
    assert minimal.run(job_id=7) == 0
    (minimal.out / "argv").unlink()
    assert minimal.run(job_id=7) == 75
    assert not minimal.apptainer_was_called


def test_a_job_whose_context_is_gone_does_nothing(minimal: Stage) -> None:
    minimal.context.rename(minimal.context.with_name("elsewhere"))
    assert minimal.run() == 1
    assert not minimal.apptainer_was_called


def test_an_image_that_is_not_the_recorded_one_is_refused(minimal: Stage, tmp_path: Path) -> None:
    (tmp_path / "image of a site's own.sif").write_bytes(b"an imagf")
    assert minimal.run() == 78
    assert minimal.left("refused") == "the image is not the recorded one"
    assert minimal.left("exit_code") == "78"
    assert not minimal.apptainer_was_called
    assert not (minimal.out / "squashfuse").exists()


def test_an_image_that_is_gone_is_refused(minimal: Stage, tmp_path: Path) -> None:
    (tmp_path / "image of a site's own.sif").unlink()
    assert minimal.run() == 78
    assert minimal.left("refused") == "the image cannot be opened"
    assert not minimal.apptainer_was_called


def test_an_image_that_cannot_be_mounted_is_refused(minimal: Stage, tmp_path: Path) -> None:
    (tmp_path / "stubs/mountpoint").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "stubs/squashfuse_ll").write_text("#!/bin/bash\nexit 1\n")
    assert minimal.run() == 78
    assert minimal.left("refused") == "the image cannot be mounted"
    assert not minimal.apptainer_was_called


def test_a_trace_that_cannot_be_written_is_the_sites_to_put_right(
    minimal: Stage, tmp_path: Path
) -> None:
    (tmp_path / "stubs/zstd").write_text("#!/bin/bash\ncat >/dev/null\nexit 1\n")
    assert minimal.run() == 78
    assert minimal.left("refused") == "what the program printed, or its trace, could not be kept"


def test_a_node_without_namespaces_is_the_sites_to_put_right(
    minimal: Stage, tmp_path: Path
) -> None:
    (tmp_path / "stubs/unshare").write_text("#!/bin/bash\nexit 1\n")
    assert minimal.run() == 78
    assert minimal.left("refused") == "this node gives no user and mount namespace"
    assert minimal.left("exit_code") == "78"
    assert not minimal.apptainer_was_called


# --- what it prints ---

LIMIT = 64 * 1024


@each_way
def test_the_program_prints_to_pipes_and_holds_no_file(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    assert stage.run() == 0
    assert (stage.out / "kinds").read_text() == "fifo\n" * 2


@each_way
@pytest.mark.parametrize(("stream", "number"), [("stdout", 1), ("stderr", 2)])
def test_what_is_printed_above_the_limit_is_dropped_and_that_is_said(
    golden: Path, stream: str, number: int, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path, log_limit=LIMIT)
    said = len("printed\n" if stream == "stdout" else "complained\n")
    above = LIMIT + 12345
    (stage.out / "program").write_text(f"head --bytes={above - said} /dev/zero >&{number}\n")
    (stage.out / "exit").write_text("3")
    assert stage.run() == 3
    assert (stage.context / f"{stream}.txt").stat().st_size == LIMIT
    assert f"{stream}: 12345 bytes above the limit were dropped" in stage.log.read_text()
    other = "stderr" if stream == "stdout" else "stdout"
    assert f"{other}:" not in stage.log.read_text()


@each_way
def test_what_is_printed_up_to_the_limit_is_whole(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path, log_limit=LIMIT)
    (stage.out / "program").write_text(f"head --bytes={LIMIT - len('printed') - 1} /dev/zero\n")
    assert stage.run() == 0
    assert (stage.context / "stdout.txt").stat().st_size == LIMIT
    assert "dropped" not in stage.log.read_text()


def test_many_short_lines_are_kept_up_to_the_limit_in_bytes(minimal: Stage) -> None:
    # The stage's limit is 16 times 64 KiB: more writes than that, and far fewer bytes.
    program = "for number in {1..50}; do echo line $number; sleep 0.002; done\n"
    (minimal.out / "program").write_text(program)
    assert minimal.run() == 0
    lines = (minimal.context / "stdout.txt").read_text().splitlines()
    assert lines == ["printed", *(f"line {number}" for number in range(1, 51))]
    assert "dropped" not in minimal.log.read_text()


def test_what_is_printed_can_be_read_while_the_program_runs(minimal: Stage) -> None:
    (minimal.out / "sleep").touch()
    child = minimal.start()
    try:
        assert soon(lambda: minimal.left("stdout.txt") == "printed")
        assert soon(lambda: minimal.left("stderr.txt") == "complained")
    finally:
        end_group(child)


def test_a_log_that_cannot_be_written_is_the_sites_to_put_right(minimal: Stage) -> None:
    (minimal.context / "stdout.txt").mkdir()
    assert minimal.run() == 78
    assert minimal.left("refused") == "what the program printed, or its trace, could not be kept"


# --- what every user of the node can read ---

SECRET = "what-nobody-else-may-read"


@each_way
def test_a_variables_value_is_part_of_no_argv(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path, environment={"TOKEN": SECRET})
    assert stage.run() == 0
    assert f"APPTAINERENV_TOKEN={SECRET}".encode() in stage.seen("environ.apptainer")
    for recorded in ("argvs", "argv", "strace", "env", "squashfuse"):
        if (stage.out / recorded).exists():
            assert SECRET.encode() not in (stage.out / recorded).read_bytes()


def test_any_value_of_a_variable_arrives(tmp_path: Path) -> None:
    values = ["(a b)", "([0]=x)", "+=", "\x01\x7f", "a" * 100_000, "$(touch owned)", "-n", "!"]
    variables = {f"V{number}": value for number, value in enumerate(values)}
    stage = staged(WAYS[1], tmp_path, environment=variables)
    assert stage.run() == 0
    found = set(stage.seen("environ"))
    for name, value in variables.items():
        assert f"APPTAINERENV_{name}={value}".encode() in found
    assert not list(tmp_path.rglob("owned"))


def test_functions_of_the_script_are_not_handed_on(minimal: Stage) -> None:
    assert minimal.run() == 0
    assert not [line for line in minimal.seen("environ") if line.startswith(b"BASH_FUNC")]


# --- TERM ---


def soon(what: Callable[[], bool]) -> bool:
    """Whether it comes true within 10 s."""
    deadline = time.monotonic() + 10
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@each_way
def test_term_ends_the_program_at_once(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    (stage.out / "sleep").touch()
    child = stage.start()
    try:
        assert soon(lambda: stage.left("stderr.txt") == "complained")
        began = time.monotonic()
        child.terminate()
        assert awaited(child, 10) == 143
        assert time.monotonic() - began < 5
        assert stage.left("exit_code") == "143"
        assert stage.left("stdout.txt") == "printed"
        assert soon(lambda: not running_below(stage.context))
    finally:
        end_group(child)


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
