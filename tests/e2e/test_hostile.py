"""Programs that mean harm, to the bridge or to each other."""

from collections.abc import Callable

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]


@pytest.mark.parametrize("trace", ["off", "audit"])
def test_a_program_that_shuts_its_own_files_harms_nobody(
    client: Client, run: Run, trace: str
) -> None:
    script = (
        "import os, time; print('on', flush=True); os.fchmod(1, 0); os.fchmod(2, 0);"
        "open('/output/kept', 'w').close(); os.chmod('/output', 0); time.sleep(4)"
    )
    process = run("python3", "-c", script, trace=trace)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"on\n"
    assert "output/kept" in {file.path for file in process.outputs}
    assert client.ready()


def test_what_a_program_prints_is_no_file_that_it_could_grow(client: Client, run: Run) -> None:
    script = "import os, stat; print(stat.S_ISFIFO(os.fstat(1).st_mode)); os.ftruncate(1, 1 << 40)"
    process = run("python3", "-c", script)
    assert process.exit_code == 1
    assert client.log(process.id).data == b"True\n"
    assert {file.path: file.size_bytes for file in process.outputs}["stdout.txt"] == 5


def test_a_variable_is_not_visible_to_other_users_of_the_node(
    bridge: Cluster, client: Client
) -> None:
    secret = "a-password-of-the-program"
    spec = {**SMALL, "trace": "audit", "environment": {"PASSWORD": secret}}
    command = ["python3", "-c", "import os, time; print(os.environ['PASSWORD'], flush=True);"
               "time.sleep(6)"]  # fmt: skip
    process = client.submit(parse_spec({**spec, "command": command}))
    until("output", lambda: client.log(process.id).data)
    assert client.log(process.id).data.decode().strip() == secret
    node = client.get(process.id).nodes
    assert node
    listing = bridge.must(node, "ps", "-eo", "args", user="bob")
    assert "strace" in listing
    assert secret not in listing
    ended = client.wait(process.id, timeout_seconds=60, poll_seconds=0.2)
    assert ended.state is ProcessState.COMPLETE


def test_outputs_in_the_way_of_a_folder_are_found_out_before_the_program_runs(
    bridge: Cluster, run: Run
) -> None:
    bridge.write("bridge", "/shared/results/in-the-way", b"")
    process = run("true", outputs={"destination": "results:in-the-way/deeper"})
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason == "results:in-the-way/deeper leads through a file"
    assert process.job_id is None


def test_a_deep_and_wide_tree_is_carried_as_far_as_it_is_allowed(run: Run) -> None:
    script = (
        "import os; os.chdir('/output')\n"
        "for n in range(300):\n    os.mkdir('d'); os.chdir('d')\n"
        "open('deep', 'w').close(); open('/output/flat', 'w').close()"
    )
    process = run("python3", "-c", script)
    assert process.state is ProcessState.COMPLETE, process.reason
    carried = {file.path for file in process.outputs if file.path.startswith("output/")}
    assert carried == {"output/flat"}
    assert "deeper than" in process.outputs_ignored[0]


@pytest.mark.parametrize("make", ["os.mkdir", "os.mknod"])
def test_a_flood_of_names_finds_no_room(run: Run, make: str) -> None:
    script = f"import os\nfor n in range(40000): {make}(f'/output/{{n}}')"
    process = run("python3", "-c", script)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason is not None
    assert process.reason.startswith("the program ended with exit code 1; /output was full")
    carried = [file for file in process.outputs if file.path.startswith("output/")]
    assert len(carried) == (10_000 if make == "os.mknod" else 0)


def test_a_flood_of_long_names_is_too_much(run: Run) -> None:
    script = "import os\nfor n in range(9000): os.mknod('/output/' + chr(1) * 100 + str(n))"
    process = run("python3", "-c", script)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason is not None
    assert "paths" in process.reason
    assert {file.path for file in process.outputs} == {"stdout.txt", "stderr.txt", "job.log"}


def test_a_program_whose_trace_nobody_takes_any_more_does_not_go_on(
    bridge: Cluster, client: Client
) -> None:
    command = ["python3", "-c", "print(1, flush=True)\nimport time; time.sleep(40); print(2)"]
    process = client.submit(parse_spec({**SMALL, "trace": "audit", "command": command}))
    until("output", lambda: client.log(process.id).data)
    node = client.get(process.id).nodes
    assert node
    its_own = '[[ $(readlink "/proc/$pid/cwd") != *"$1" ]] || kill -9 "$pid"'
    find = f"for pid in $(pgrep -x zstd); do {its_own}; done"
    bridge.must(node, "bash", "-c", find, "bash", process.id)
    ended = client.wait(process.id, timeout_seconds=30, poll_seconds=0.2)
    assert ended.state is ProcessState.SYSTEM_ERROR
    assert client.log(process.id).data == b"1\n"
