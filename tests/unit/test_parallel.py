"""What a parallel Process asks for, and how its containers differ from others."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.bridge.render import prepared
from slurmbridge.container.apptainer import USUAL_OUTPUTS, context_container, environment, seal
from slurmbridge.container.facts import OPTIONAL, compare, expected_facts, expected_of_pods
from slurmbridge.container.frameworks import FRAMEWORKS, shares
from slurmbridge.errors import InvalidProcess
from slurmbridge.spec import ParallelKind, parse_spec
from tests.support.builders import golden_script
from tests.support.specs import CAPABILITY, IMAGE, spec
from tests.support.stage import GOLDENS

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
RULES = Rules(frozenset({"data"}), frozenset({"results"}), has_default_destination=True)


def parallel(nodes: int = 3, tasks: int = 1, kind: str = "mpi") -> dict[str, Any]:
    """A specification's table."""
    return {"kind": kind, "nodes": nodes, "tasks_per_node": tasks}


def closed(**changes: Any) -> Any:
    """The container of a specification that is not traced."""
    return context_container("/c/1", spec(trace="off", **changes), IMAGE, outputs=USUAL_OUTPUTS)


def refused(*, networked: bool = True, **changes: Any) -> dict[str, str]:
    """Where and why a specification is refused."""
    with pytest.raises(InvalidProcess) as caught:
        check(
            spec(**changes),
            RULES,
            images={"python": IMAGE},
            capability=CAPABILITY,
            networked=networked,
        )
    return dict(caught.value.fields)


# --- what is refused ---


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ({"nodes": 2}, "parallel.kind: is missing"),
        ({"kind": "yarn", "nodes": 2}, "parallel.kind"),
        ({"kind": "mpi"}, "parallel.nodes: is missing"),
        ({"kind": "mpi", "nodes": 0}, "parallel.nodes"),
        ({"kind": "mpi", "nodes": 2, "tasks_per_node": 0}, "parallel.tasks_per_node"),
        ({"kind": "mpi", "nodes": 2, "ranks": 4}, "parallel.ranks: is not a field"),
    ],
)
def test_what_is_no_parallel_process_is_told_by_name(table: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidProcess, match=part):
        spec(parallel=table)


def test_the_number_of_tasks_is_said_in_one_place() -> None:
    with pytest.raises(InvalidProcess, match="tasks_per_node is said there"):
        spec(parallel=parallel(), resources={"tasks_per_node": 2})


def test_without_private_networks_one_node_is_all_there_is() -> None:
    found = refused(networked=False, trace="off", parallel=parallel(2))
    assert list(found) == ["parallel.nodes"]
    assert "make no private networks" in found["parallel.nodes"]
    one = spec(parallel=parallel(1, 2))
    check(one, RULES, images={"python": IMAGE}, capability=CAPABILITY, networked=False)


def test_more_than_the_partition_has_is_refused() -> None:
    assert list(refused(trace="off", parallel=parallel(4))) == ["parallel.nodes"]
    found = refused(trace="off", parallel=parallel(2, 3), resources={"cpus_per_task": 2})
    assert found == {
        "parallel.tasks_per_node": "3 times 2 cpus is more than a node of main has (4)"
    }
    fits = spec(trace="off", parallel=parallel(3, 2), resources={"cpus_per_task": 2})
    check(fits, RULES, images={"python": IMAGE}, capability=CAPABILITY, networked=True)


# --- frameworks ---


@pytest.mark.parametrize("kind", list(FRAMEWORKS))
def test_what_a_framework_cannot_begin_with_is_refused(kind: ParallelKind) -> None:
    least = FRAMEWORKS[kind].least_memory_mib
    wanted: dict[str, Any] = {"trace": "off", "parallel": parallel(kind=kind)}
    found = refused(**wanted, resources={"memory_mib": least - 1})
    assert found == {
        "resources.memory_mib": f"{least - 1} is too little: {kind} needs {least} on each node"
    }
    enough = spec(**wanted, resources={"memory_mib": least})
    check(enough, RULES, images={"python": IMAGE}, capability=None, networked=True)


@pytest.mark.parametrize("kind", list(FRAMEWORKS))
@pytest.mark.parametrize("more", [0, 1, 1000, 1_000_000])
def test_the_memory_of_a_node_is_shared_out_and_never_more(kind: ParallelKind, more: int) -> None:
    memory = FRAMEWORKS[kind].least_memory_mib + more
    found = shares(spec(parallel=parallel(kind=kind), resources={"memory_mib": memory}))
    assert found.program + found.workers == memory - FRAMEWORKS[kind].service_mib
    assert min(found.program, found.workers) >= 128
    if kind is ParallelKind.SPARK:
        # As parts/spark.j2 makes heaps of them, of which Spark refuses those below 450 MiB.
        assert min(found.program - 256, found.workers * 7 // 10) >= 450


def test_without_a_framework_all_memory_is_the_program_s() -> None:
    for wanted in (spec(), spec(parallel=parallel())):
        assert shares(wanted).program == wanted.resources.memory_mib


STARTED = [golden for golden in GOLDENS if "[parallel]" in golden.read_text()]
FUNCTIONS = re.compile(
    r"^write_start\(\) \{.*?(?=^export -f write_start)", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("golden", STARTED, ids=lambda path: path.stem)
def test_what_begins_in_the_first_pod_is_sound_as_shell(golden: Path, tmp_path: Path) -> None:
    """In the script it is text, which shellcheck does not read."""
    functions = FUNCTIONS.search(golden_script(golden))
    assert functions
    (tmp_path / "pod/sb").mkdir(parents=True)
    subprocess.run(["bash", "-ec", functions[0] + "write_start"], cwd=tmp_path, check=True)
    start = tmp_path / "pod/sb/start"
    argv = [str(SHELLCHECK), "--shell=dash", str(start)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
    assert subprocess.run(["dash", "-n", str(start)], check=False).returncode == 0


def test_every_kind_that_starts_something_has_a_script_that_was_reviewed() -> None:
    kinds = {parse_spec(tomllib.loads(golden.read_text())).parallel for golden in STARTED}
    assert {one.kind for one in kinds if one} == set(ParallelKind) - {ParallelKind.PODS}


# --- its containers ---


def test_a_pod_stays_in_the_network_that_slurm_has_put_it_in_and_gives_up_nothing_else() -> None:
    single, pod, alone = (
        seal(closed(**more)) for more in ({}, {"parallel": parallel()}, {"parallel": parallel(1)})
    )
    assert set(single) - set(pod) == {"--net", "--network=none", "--uts", "--hostname=sealed"}
    assert set(single) - set(alone) == {"--uts", "--hostname=sealed"}
    assert set(pod) <= set(single)


def test_what_a_pod_has_to_be_found_to_be_differs_by_its_network_and_its_name() -> None:
    single, pod = closed(), closed(parallel=parallel())
    fewer = set(expected_facts(single)) - set(expected_facts(pod))
    more = set(expected_facts(pod)) - set(expected_facts(single))
    assert fewer == {
        *("hostname sealed", "outside namespace net own", "outside namespace uts own"),
    }
    assert {fact for fact in more if not fact.startswith("variable ")} == {
        *("hostname sb1", "interface job0", "route job0", "outside interface job0"),
        *("mount /sys/class/net ro", "mount /sys/devices/virtual/net ro"),
        *("outside namespace net shared", "outside namespace uts shared"),
    }


def test_every_pod_has_to_be_found_as_the_first_one() -> None:
    pod = closed(parallel=parallel())
    expected = expected_of_pods(pod, 3)
    found = [line.removeprefix(OPTIONAL) for line in expected]
    assert not compare(found, expected)
    assert {line for line in found if "hostname sb" in line} == {
        *("hostname sb1", "sb2 hostname sb2", "sb3 hostname sb3"),
    }
    for line in ("interface eth0", "sb3 interface eth0"):
        assert compare([*found, line], expected).unexpected == (line,)
    for line in ("seccomp 2", "sb2 seccomp 2", "sb3 seccomp 2"):
        assert compare(set(found) - {line}, expected).missing == (line,)


def test_nodes_find_what_is_expected_of_one_and_the_bridge_judges_all() -> None:
    wanted = spec(trace="off", parallel=parallel())
    ready = prepared(Path("/c/1"), wanted, IMAGE, USUAL_OUTPUTS)
    assert "sb2 " not in ready.expected_facts.decode()
    assert sum(line.removeprefix(OPTIONAL).startswith("sb3 ") for line in ready.expected) == len(
        ready.expected_facts.splitlines()
    )


def test_libraries_are_told_which_network_there_is_and_the_submitter_goes_first() -> None:
    found = environment(spec(trace="off", parallel=parallel()), IMAGE)
    assert found["OMPI_MCA_btl_tcp_if_include"] == found["UCX_NET_DEVICES"] == "job0"
    alone = environment(spec(parallel=parallel(1)), IMAGE)
    assert alone["OMPI_MCA_btl_tcp_if_include"] == "lo"
    assert "UCX_NET_DEVICES" not in alone
    own = {"OMP_NUM_THREADS": "7", "UCX_NET_DEVICES": "all"}
    told = environment(
        spec(trace="off", parallel=parallel(), environment=own, resources={"cpus_per_task": 2}),
        IMAGE,
    )
    assert {name: told[name] for name in own} == own
    assert "UCX_NET_DEVICES" not in environment(spec(), IMAGE)
