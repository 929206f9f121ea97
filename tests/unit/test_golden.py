"""The scripts that are submitted: as reviewed, sound as shell, and run to their end under bash."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import GOLDEN, golden_script
from tests.support.specs import IMAGE
from tests.support.stage import GOLDENS, WAYS, Stage, each_golden, each_way, staged

# What has several nodes needs a cluster: tests/e2e/test_parallel.py.
RUN_HERE = [golden for golden in GOLDENS if "[parallel]" not in golden.read_text()]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


@pytest.fixture
def minimal(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "minimal.toml", tmp_path)


@pytest.fixture(scope="module", params=RUN_HERE, ids=lambda path: path.stem)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Each golden script, run once for all tests that only look at what it left."""
    stage = staged(request.param, tmp_path_factory.mktemp("golden"))
    assert stage.run() == 0
    return stage


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


# --- run to the end ---


@pytest.mark.parametrize(
    ("golden", "code"), [(WAYS[0], 0), (WAYS[0], 77), (WAYS[1], 1), (WAYS[1], 200)]
)
def test_the_programs_exit_code_is_kept_and_is_the_scripts_own(
    golden: Path, code: int, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    (stage.out / "exit").write_text(str(code))
    assert stage.run() == code
    assert stage.left("exit_code") == str(code)
    assert stage.left("refused") is None
    assert (stage.left("stdout.txt"), stage.left("stderr.txt")) == ("printed", "complained")
    assert stage.log.read_text() == ""


def test_what_is_traced_leaves_a_record_and_what_is_not_leaves_none(ended: Stage) -> None:
    traced = ended.spec.trace != "off"
    assert (ended.left("trace.zst") == "record") is traced
    assert (ended.out / "strace").exists() is traced


def test_the_image_is_served_from_the_offset_on(ended: Stage) -> None:
    options = ended.seen("squashfuse")[2].decode().split(",")
    assert options[0] == f"offset={IMAGE.squashfs_offset}"


def test_requirements_are_served_and_bound_where_there_are_some(ended: Stage) -> None:
    target = b"destination=/requirements,ro"
    assert (ended.out / "squashfuserequirements").exists() == bool(ended.spec.requirements)
    bound = [word for word in ended.seen("argv") if word.endswith(target)]
    assert len(bound) == bool(ended.spec.requirements)
    pairs = ended.seen("probe")
    assert (b"/requirements=requirements" in pairs) == bool(ended.spec.requirements)


def test_what_is_mounted_is_seen_by_the_job_alone(ended: Stage) -> None:
    assert {b"--user", b"--mount", b"--cgroup"} <= set(ended.seen("unshare"))


def test_what_lies_in_memory_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    resources = {"memory_mib": 64, "tmp_mib": 3, "shm_mib": 5}
    stage = staged(GOLDEN / "minimal.toml", tmp_path, resources=resources)
    assert stage.run() == 0
    mounts = (stage.out / "mounts").read_text().splitlines()
    options = {line.split()[-1]: line.split()[3] for line in mounts if line.startswith("-t tmpfs")}
    assert {"pod", "pod/tmp", "pod/shm"} <= set(options)
    assert options["pod/tmp"] == f"nosuid,nodev,mode=700,size={3 << 20}"
    assert options["pod/shm"] == f"nosuid,nodev,mode=700,size={5 << 20}"


def test_of_sys_only_the_counts_of_cores_are_bound_and_cannot_be_written(ended: Stage) -> None:
    mounts = (ended.out / "mounts").read_text().splitlines()
    sources = {line.split()[1] for line in mounts if line.startswith("--bind /sys")}
    assert sources <= {"/sys/devices/system/cpu", "/sys/devices/system/node"}
    assert {f"-o remount,bind,ro pod{source}" for source in sources} <= set(mounts)
    assert sources, "this host has no /sys/devices/system"


# --- one job for a context ---


def test_a_second_job_in_the_same_context_does_nothing(minimal: Stage) -> None:
    (minimal.out / "exit").write_text("3")
    assert minimal.run(job_id=7) == 3
    (minimal.out / "argv").unlink()
    assert minimal.run(job_id=8) == 75
    assert not minimal.container_was_started
    assert minimal.left("exit_code") == "3"
    assert (minimal.context / "claim").readlink() == Path("7")


def test_a_job_that_is_started_again_does_nothing_either(minimal: Stage) -> None:
    assert minimal.run(job_id=7) == 0
    (minimal.out / "argv").unlink()
    assert minimal.run(job_id=7) == 75
    assert not minimal.container_was_started


def test_a_job_whose_context_is_gone_does_nothing(minimal: Stage) -> None:
    minimal.context.rename(minimal.context.with_name("elsewhere"))
    assert minimal.run() == 1
    assert not minimal.container_was_started


# --- what every user of the node can read ---

SECRET = "what-nobody-else-may-read"


@each_way
def test_nothing_of_the_specification_is_part_of_an_argv(golden: Path, tmp_path: Path) -> None:
    stage = staged(
        golden,
        tmp_path,
        command=["python3", f"{SECRET}-of-the-command"],
        environment={"TOKEN": f"{SECRET}-of-a-variable"},
        labels={"title": f"{SECRET}-of-a-label"},
        inputs=[{"source": f"data:{SECRET}-of-an-input"}],
        code={"source": f"data:{SECRET}-of-the-code"},
        outputs={"destination": f"results:{SECRET}-of-the-outputs"},
    )
    assert stage.run() == 0
    assert SECRET in (stage.out / "command").read_text()
    recorded = ["argvs", "argv", "env", "squashfuse", "probe", "unshare"]
    for name in [*recorded, *(["strace"] if stage.spec.trace != "off" else [])]:
        assert SECRET.encode() not in (stage.out / name).read_bytes()
    assert b"sealed" in (stage.out / "argvs").read_bytes()


def test_nothing_of_the_specification_but_four_numbers_reaches_the_launcher(ended: Stage) -> None:
    argv = [word.decode() for word in ended.seen("argv")]
    place = argv.index("root")
    assert [word for word in argv[:place] if not word.startswith("--")] == ["exec"]
    assert argv[place + 1 : -5] == ["/.sb/sbseal", "/.sb"]
    limits = ended.spec.limits
    numbers = [f"nproc={limits.processes}", f"nofile={limits.open_files}"]
    assert argv[-5:-3] == numbers
    assert argv[-3].startswith("fsize=")
    assert argv[-2] == f"tasks={ended.spec.resources.tasks_per_node}"
    assert argv[-1] == f"refused={'silent' if ended.spec.trace == 'off' else 'noted'}"


# What bash adds: the stub of strace is one, and hands it on.
BY_STUBS = {b"PWD", b"SHLVL", b"_"}


def test_the_launcher_gets_two_variables_and_no_other(ended: Stage) -> None:
    fixed = [f"PATH={ended.root}/stubs:/usr/bin:/bin".encode(), b"HOME=/nonexistent"]
    if ended.spec.trace == "off":
        assert ended.seen("environ.apptainer") == fixed
    else:
        assert ended.seen("environ.strace") == [*fixed, b"TZ=UTC0"]
    launcher = ended.seen("environ.apptainer")
    assert {line for line in launcher if line.partition(b"=")[0] not in BY_STUBS} == set(fixed)


def test_command_and_environment_arrive_byte_for_byte(ended: Stage) -> None:
    assert ended.seen("command") == [word.encode() for word in ended.spec.command]
    declared = {f"{name}={value}".encode() for name, value in ended.spec.environment.items()}
    platforms = {b"HOME=/tmp", b"PATH", b"LC_ALL"}
    if ended.spec.requirements:
        platforms |= {b"PYTHONPATH"}
        assert b"PYTHONPATH=/requirements" in ended.seen("environment")
    found = set(ended.seen("environment"))
    assert declared <= found
    others = {line if line.startswith(b"HOME") else line.partition(b"=")[0] for line in found}
    names = {name.encode() for name in ended.spec.environment}
    assert others - names == platforms
    assert not list(ended.root.rglob("owned"))


def test_any_value_of_a_variable_arrives(tmp_path: Path) -> None:
    values = ["(a b)", "([0]=x)", "+=", "\x01\x7f", "a" * 100_000, "$(touch owned)", "-n", "!", ""]
    variables = {f"V{number}": value for number, value in enumerate(values)}
    stage = staged(GOLDEN / "traced-off.toml", tmp_path, environment=variables)
    assert stage.run() == 0
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    assert wanted <= set(stage.seen("environment"))
    assert not list(tmp_path.rglob("owned"))
