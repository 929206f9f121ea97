"""The report says what the program did: no more, no less, and about the right files."""

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.rules import Doubt, Outcome
from slurmbridge.spec import parse_spec
from slurmbridge.trace.fold import fold
from slurmbridge.trace.follow import Begin, Follower
from slurmbridge.trace.report import USUAL, StreamReport, TraceReport
from tests.support.cluster import Cluster
from tests.support.reference_trace import Reference
from tests.support.truth import expected
from tests.support.truth.deeds import Deeds, of_report, of_tasks, places
from tests.support.truth.expected import Truth, process, program
from tests.support.truth.runs import specification, stage, under_bare_strace

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
LEVELS = ("audit", "full")
IMAGES = {"C": "python", "Python": "python", "shell": "python", "Java": "programs"}
COMMANDS = {
    "C": expected.IN_C,
    "Python": expected.IN_PYTHON,
    "shell": expected.IN_SHELL,
    "Java": expected.IN_JAVA,
}
TASKS = 3
TASK = (
    "import os, sys; n = os.environ['SLURM_PROCID']; open(f'/output/task-{n}', 'w').write(n);\n"
    "child = os.fork()\n"
    "if not child: open(f'/tmp/of-{n}', 'w').close(); os._exit(int(n) + 10)\n"
    "os.waitpid(child, 0)"
)
TASK_COMMAND = ("python3", "-I", "-c", TASK)
COPIES = (
    "import os, shutil; shutil.copyfile('/input/data.csv', '/output/sent');"
    # Within one file system: across two of them, the kernel copies nothing.
    "source = os.open('/output/sent', 0); target = os.open('/output/copied', 65, 384);"
    "print(os.copy_file_range(source, target, 100000))"
)
HONEST = {
    "a table with pandas": (
        "python",
        "python3", "-c",
        "import pandas as p; p.read_csv('/input/data.csv', header=None, nrows=1);"
        "f = p.DataFrame({'k': [0, 1] * 50, 'v': range(100)});"
        "f.groupby('k').sum().to_csv('/output/t')",
    ),
    "a pipe of the shell": (
        "python", "sh", "-c", "tr '\\0' a </input/data.csv | fold -w 10 | sort | uniq -c >/output/n"
    ),
    "a hello from Java": ("programs", "java", "/code/Hello.java"),
    "a compiled program": ("python", "/code/hello"),
}  # fmt: skip


class Ended(NamedTuple):
    process: Process
    report: TraceReport

    @property
    def stream(self) -> StreamReport:
        [stream] = self.report.streams
        return stream


class Ran(NamedTuple):
    size: int
    ended: dict[tuple[str, str], Ended]


def wanted() -> dict[tuple[str, str], dict[str, object]]:
    """All Processes of this file."""
    found = {
        (name, level): specification(command, level, image=IMAGES[name])
        for name, command in COMMANDS.items()
        for level in LEVELS
    }
    for name, level in list(found):
        if name == "Java":
            found[name, level]["resources"] = {"memory_mib": 1024}
    for level in LEVELS:
        found["tasks", level] = specification(
            TASK_COMMAND, level, resources={"memory_mib": 256, "tasks_per_node": TASKS}
        )
    found["copies", "full"] = specification(("python3", "-I", "-c", COPIES), "full")
    for name, (image, *command) in HONEST.items():
        memory = {"memory_mib": 1024 if image == "programs" else 512}
        found[name, "audit"] = specification(tuple(command), "audit", image=image, resources=memory)
    return found


@pytest.fixture(scope="module")
def ran(
    bridge: Cluster, programs: str, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """All of them, submitted together; Java first, which takes longest."""
    assert programs
    size = stage(bridge, tmp_path_factory.mktemp("truth"))
    order = sorted(wanted().items(), key=lambda item: item[1]["image"] != "programs")
    ids = {key: client.submit(parse_spec(spec)).id for key, spec in order}
    ended: dict[tuple[str, str], Ended] = {}
    for key, process_id in ids.items():
        process = client.wait(process_id, timeout_seconds=200, poll_seconds=0.3)
        complaint = client.log(process_id, "stderr").data
        assert process.state is ProcessState.COMPLETE, (key, process.reason, complaint[-2000:])
        ended[key] = Ended(process, client.trace(process_id))
    return Ran(size, ended)


def truth(name: str, size: int, *, sealed: bool) -> Truth:
    made: dict[str, Callable[[], Truth]] = {
        "C": lambda: expected.in_c(sealed=sealed, size=size),
        "Python": lambda: expected.in_python(sealed=sealed),
        "shell": expected.in_shell,
        "Java": expected.in_java,
    }
    return made[name]()


def assert_same(told: Deeds, true: Deeds, *, level: str = "audit", runtime: bool = False) -> None:
    """Act by act; a `runtime` starts threads and tries sockets as it likes."""
    mine, yours = told.own(), true.own()
    if level == "full":
        yours.trees = tuple(map(expected.cut, yours.trees))
    assert mine.acts == yours.acts
    assert mine.tried == yours.tried
    assert mine.joined == yours.joined
    if runtime:
        for deeds in (mine, yours):
            deeds.trees = tuple(tree.without_threads() for tree in deeds.trees)
            deeds.network = +deeds.network
            for reached in list(deeds.network):
                if reached.use == "socket" or reached.address.endswith(b"/nscd/socket"):
                    del deeds.network[reached]
    assert mine.trees == yours.trees
    assert mine.network == yours.network
    assert mine.sent == yours.sent


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_report_of_a_sealed_program_is_the_truth(ran: Ran, name: str, level: str) -> None:
    stream = ran.ended[name, level].stream
    true = truth(name, ran.size, sealed=True).deeds()
    assert_same(of_report(stream), true, level=level, runtime=name == "Java")
    # Of a process that kills itself, the result of that call. Of two that were started at the same
    # time, it cannot be told for certain who started which.
    assert set(stream.doubts) <= {Doubt.UNKNOWN_RESULTS, Doubt.UNCERTAIN_PARENTS}
    assert stream.processes_ended == stream.processes.total == sum(t.size for t in true.trees)


@pytest.mark.parametrize("name", COMMANDS)
def test_at_level_full_every_byte_read_and_written_is_counted(ran: Ran, name: str) -> None:
    moved = of_report(ran.ended[name, "full"].stream).own().moved
    true = truth(name, ran.size, sealed=True).deeds().moved
    # How much of its own script an interpreter reads is its affair.
    assert {path: both for path, both in moved.items() if path in true} == true
    assert set(moved) - set(true) <= {b"/code/prog.py"}


def test_bytes_that_the_kernel_copies_for_the_program_are_counted(ran: Ran) -> None:
    moved = of_report(ran.ended["copies", "full"].stream).moved
    size = expected.DATA_BYTES
    assert moved.get(b"/input/data.csv") == (size, 0)
    assert moved.get(b"/output/sent") == (size, size)
    assert moved.get(b"/output/copied") == (0, size)


def test_at_level_audit_no_bytes_are_claimed(ran: Ran) -> None:
    assert of_report(ran.ended["Python", "audit"].stream).moved == {}


@pytest.mark.parametrize("name", ["C", "Python", "shell"])
def test_a_bare_strace_another_reader_and_the_truth_agree(
    ran: Ran, bridge: Cluster, name: str
) -> None:
    text = under_bare_strace(bridge, name)
    followed = of_report(fold(Follower(Begin.FIRST).events([text]), USUAL, "node1"))
    read = Reference(text).deeds
    assert followed == read
    assert_same(read, truth(name, ran.size, sealed=False).deeds())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["C", "Python"])
def test_every_file_is_in_its_place(ran: Ran, name: str, level: str) -> None:
    found = places(ran.ended[name, level].stream)
    true = truth(name, ran.size, sealed=True).deeds()
    own = {path for _, path in true.acts} | {path for _, path, _ in true.tried}
    for place, folder in {
        "input": b"/input", "code": b"/code", "output": b"/output", "temporary": b"/tmp"
    }.items():  # fmt: skip
        assert found[place] == {path for path in own if path.startswith(folder)}
    assert {b"/etc/hostname", b"/bin/true", b"/bin/sh"} <= found["image"]
    assert b"/dev/null" in found["system"]
    # The kernel tells the real name.
    assert any(re.fullmatch(rb"/proc/\d+/status", path) for path in found["system"])
    assert found["unexpected"] == {b"/dev/made", b"/home/truth"}
    assert found["requirement"] == set()


@pytest.mark.parametrize("level", LEVELS)
def test_the_tasks_of_a_process_are_told_apart(ran: Ran, level: str) -> None:
    stream = ran.ended["tasks", level].stream
    trees = of_tasks(stream)
    assert len(trees) == TASKS
    first = program("/usr/bin/python3", *(word.replace("\n", r"\x0a") for word in TASK_COMMAND))
    for number, key in enumerate(stream.tasks):
        child = process(f"exit {number + 10}")
        true = process("exit 0", first, children=(child,))
        assert trees[key] == (expected.cut(true) if level == "full" else true)
    own = of_report(stream).own()
    acts = {
        *((act, b"/output/task-%d" % n) for n in range(TASKS) for act in ("written", "created")),
        *((act, b"/tmp/of-%d" % n) for n in range(TASKS) for act in ("written", "created")),
    }
    assert dict(own.acts) == dict.fromkeys(acts, 1)
    assert stream.processes.total == 2 * TASKS


@pytest.mark.parametrize("level", LEVELS)
def test_the_task_that_wrote_a_file_is_the_one_with_its_number(ran: Ran, level: str) -> None:
    stream = ran.ended["tasks", level].stream
    files = {file.name: file for place in stream.files for file in place.files}
    for number, key in enumerate(stream.tasks):
        assert files[f"/output/task-{number}"].first.process == key


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes_the_default_rules(ran: Ran, name: str) -> None:
    verdict = ran.ended[name, "audit"].report.verdict
    assert (verdict.outcome, verdict.findings) == (Outcome.PASS, ())
