"""A container that is not what it has to be never runs its program.

Each case changes what leads to a container, as a careless or a hostile hand could, on the real
cluster. The program leaves a marker in /output: where it exists, the program ran.
"""

import json
from dataclasses import asdict
from typing import Any

import pytest

from slurmbridge.container.attestation import verify
from slurmbridge.errors import AttestationInvalid
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Attestation, Process
from tests.support.cluster import BRIDGE_PYTHON, Cluster
from tests.support.hooked import Edit, Hook

pytestmark = pytest.mark.cluster
MARKER = "output/marker"
SEAL_LOOP = "{% for argument in seal %}\n        {{ argument }} \\\n"


Outcome = tuple[Process, Attestation | None]


def hook(trace: str, templates: tuple[Edit, ...] = (), helpers: tuple[Edit, ...] = ()) -> Hook:
    spec = {
        "image": "python",
        "command": ["touch", f"/{MARKER}"],
        "resources": {"memory_mib": 256},
        "time_limit_minutes": 5,
        "trace": trace,
    }
    return Hook(spec, templates, helpers)


def run_all(bridge: Cluster, hooks: dict[str, Hook]) -> dict[str, Outcome]:
    given = json.dumps([asdict(hook) for hook in hooks.values()])
    printed = bridge.must(
        "bridge", "env", "PYTHONPATH=/opt/slurmbridge/src", BRIDGE_PYTHON, "-m",
        "tests.support.hooked", stdin=given.encode(), timeout_seconds=400,
    )  # fmt: skip
    return dict(zip(hooks, map(outcome, json.loads(printed)), strict=True))


def outcome(found: dict[str, Any]) -> Outcome:
    process = Process.model_validate(found["process"], strict=False)
    attested = found["attestation"]
    return process, attested and Attestation.model_validate(attested, strict=False)


def carried(process: Process) -> list[str]:
    return [file.path for file in process.outputs]


def with_option(option: str) -> Edit:
    """One more option for Apptainer."""
    changed = SEAL_LOOP.replace(
        "{{ argument }}", f'{{% if argument == "root" %}}{option} {{% endif %}}{{{{ argument }}}}'
    )
    return ("parts/program.j2", SEAL_LOOP, changed)


def without_options(*options: str) -> Edit:
    """Some options of Apptainer less."""
    condition = " and ".join(f'argument != "{option}"' for option in options)
    changed = SEAL_LOOP.replace("in seal", f"in seal if {condition}")
    return ("parts/program.j2", SEAL_LOOP, changed)


def other_option(old: str, new: str) -> Edit:
    """Another option of Apptainer."""
    changed = SEAL_LOOP.replace(
        "{{ argument }}",
        f'{{% if argument == "{old}" %}}{new}{{% else %}}{{{{ argument }}}}{{% endif %}}',
    )
    return ("parts/program.j2", SEAL_LOOP, changed)


PREPARED = ("parts/program.j2", "    prepare_pod\n")
OPEN_DESCRIPTOR = ("parts/program.j2", "7>&- &", "7>&- 9</etc/hostname &")
# name: (changes of templates, changes of helpers, what the reason has to name)
HOOKS: dict[str, tuple[tuple[Edit, ...], tuple[Edit, ...], str]] = {
    "a bind is added": (
        (with_option("--mount=type=bind,source=/home,destination=/mnt,ro"),), (),
        "found mount /mnt ro",
    ),
    "a bind is added by Apptainer's own variable": (
        (("parts/program.j2", "HOME=/nonexistent", "HOME=/nonexistent APPTAINER_BIND=/home:/mnt"),),
        (), "found mount /mnt rw",
    ),
    "an input can be written to": (
        ((*PREPARED, "    prepare_pod\n    chmod 700 input\n"),
         ("parts/program.j2", SEAL_LOOP, SEAL_LOOP.replace(
             "{{ argument }}", "{{ argument|replace('/input,ro', '/input') }}"))),
        (), "found mount /input rw, writable /input",
    ),
    "another folder is bound as /output": (
        ((*PREPARED, "    prepare_pod\n    mkdir other; mount -t tmpfs -o nosuid,nodev,mode=700,"
          "size={{ output_bytes }},nr_inodes={{ output_inodes }} slurmbridge other\n"),
         ("parts/program.j2", SEAL_LOOP, SEAL_LOOP.replace(
             "{{ argument }}", "{{ argument|replace('pod/output,', 'other,') }}"))),
        (), "found outside /output other",
    ),
    "the network is left open": (
        (without_options("--net", "--network=none"),), (),
        "outside namespace net shared",
    ),
    "the host name is told": (
        (without_options("--uts", "--hostname=sealed"),), (), "found hostname node",
    ),
    "the node's processes are visible": (
        (other_option("--containall", "--contain --ipc"),), (),
        "cannot be seen from outside",
    ),
    "/sys is the host's": (
        (other_option("--no-mount=hostfs,home,cwd,bind-paths,sys",
                      "--no-mount=hostfs,home,cwd,bind-paths"),
         (
            "parts/program.j2", "in seal",
            "in seal if not argument.endswith('/pod/sys,destination=/sys,ro')",
        )),
        (), "mount /sys/",
    ),
    "/tmp is larger than it may be": (
        (("parts/pod.j2", "size={{ tmp_bytes }}", "size=1g"),), (), "found size /tmp 1073741824",
    ),
    "the helper is left out": (
        (other_option("/.sb/sbseal", "/bin/true"),), (), "the container did not start",
    ),
    "the helper is another one": (
        (("parts/pod.j2", '    [[ "$(cd pod/sb', '    : >pod/sb/sbseal\n    [[ "$(cd pod/sb'),), (),
        "the sealing helpers are not the recorded ones",
    ),
    "the system call filter is off": (
        (), (("sbseal.c", "    load_filter();", "    if (0)\n        load_filter();"),),
        "found call ",
    ),
    "a descriptor is left open": (
        (OPEN_DESCRIPTOR,), (("sbseal.c", "    close_from(GATE + 1);", "    ;"),),
        "found descriptor 9 file, outside descriptor 9 file",
    ),
    "there is a variable too many": (
        (("parts/pod.j2", "    cp -- environment.list pod/sb/environment",
          "    { cat environment.list; printf 'SLURM_JWT=1\\0'; } >pod/sb/environment"),),
        (), "found variable SLURM_JWT",
    ),
    "a variable is missing": (
        (("parts/pod.j2", "    cp -- environment.list pod/sb/environment",
          "    sed --null-data '/^HOME=/d' environment.list >pod/sb/environment"),),
        (), "missed variable HOME",
    ),
    "core dumps are on": (
        (), (("sbseal.c", '? "core=1"', '? "core=4096"'),),
        "found limit core 4096",
    ),
    "the launcher's memory can be read": (
        (), (("sbseal.c", "    set_dumpable(0);\n", "    set_dumpable(1);\n"),),
        "found open /proc/1/environ",
    ),
    "the umask lets others read": (
        (), (("sbseal.c", "umask(077);", "umask(022);"),), "found umask 022",
    ),
}  # fmt: skip


LEVELS = ("off", "audit")
OPENED = with_option("--mount=type=bind,source=/home,destination=/mnt,ro")
CARELESS = ("parts/attest.j2", "[[ -z $unexpected$missing ]]", "true")
SILENT = ("parts/attest.j2", "    mv facts.new facts\n", "    rm facts.new\n")


@pytest.fixture(scope="module")
def outcomes(bridge: Cluster) -> dict[str, Outcome]:
    """All cases at once, because each for itself waits most of the time."""
    hooks = {
        f"{name}, {trace}": hook(trace, *HOOKS[name][:2]) for name in HOOKS for trace in LEVELS
    }
    hooks |= {f"unchanged, {trace}": hook(trace) for trace in LEVELS}
    hooks["handed over"] = hook("off", (OPEN_DESCRIPTOR,))
    hooks["careless"] = hook("off", (CARELESS, OPENED))
    hooks["silent"] = hook("off", (SILENT,))
    return run_all(bridge, hooks)


@pytest.mark.parametrize("trace", LEVELS)
def test_without_a_change_the_program_runs_and_is_attested(
    outcomes: dict[str, Outcome], trace: str
) -> None:
    process, attestation = outcomes[f"unchanged, {trace}"]
    assert process.state is ProcessState.COMPLETE, process.reason
    assert MARKER in carried(process)
    assert attestation is not None
    verify(attestation, process, public_key=attestation.public_key)
    assert process.attested is True


@pytest.mark.parametrize("trace", LEVELS)
@pytest.mark.parametrize("name", HOOKS)
def test_a_container_that_is_not_sealed_never_runs_its_program(
    outcomes: dict[str, Outcome], name: str, trace: str
) -> None:
    process, attestation = outcomes[f"{name}, {trace}"]
    assert process.state is ProcessState.SYSTEM_ERROR, process.reason
    assert MARKER not in carried(process)
    assert process.attested is not True
    assert process.reason is not None
    assert HOOKS[name][2] in process.reason, process.reason
    if attestation is not None:
        with pytest.raises(AttestationInvalid, match="was not sealed"):
            verify(attestation, process, public_key=attestation.public_key)


def test_a_descriptor_that_the_launcher_leaves_open_is_closed(
    outcomes: dict[str, Outcome],
) -> None:
    process, _ = outcomes["handed over"]
    assert process.state is ProcessState.COMPLETE, process.reason


def test_what_a_node_lets_pass_the_bridge_still_finds(outcomes: dict[str, Outcome]) -> None:
    """A node that was told not to compare is found out when its outputs are collected."""
    process, attestation = outcomes["careless"]
    assert process.state is ProcessState.SYSTEM_ERROR
    assert process.reason == "the container was not sealed: found mount /mnt ro"
    assert attestation is not None
    assert attestation.sealed is False
    # The control of all cases above: had the node not compared, the program would have run.
    assert MARKER in carried(process)


def test_a_node_that_leaves_no_facts_is_not_believed(outcomes: dict[str, Outcome]) -> None:
    process, attestation = outcomes["silent"]
    assert process.state is ProcessState.SYSTEM_ERROR
    assert process.reason == "the job ended, but its container was not attested"
    assert attestation is None
