"""Hostile programs: what works outside, and in a container that is only contained, and sealed.

Each probe of tests/support/escape is a case of its own in each arm. What is expected where is in
tests/support/verdicts.py, and for people in docs/probes.md.
"""

from collections.abc import Iterator

import pytest

from slurmbridge.client import Client
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.arms import Outcomes, all_arms, prepared
from tests.support.cluster import Cluster
from tests.support.escape.harness import Probe
from tests.support.escape.table import PROBES
from tests.support.verdicts import BARE_OPEN, OPEN_BY_DESIGN

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def cases() -> Iterator[object]:
    """Every probe in every arm; outside, those that have a control there."""
    for probe in PROBES:
        if probe.control not in {"none", "bare"}:
            name = f"outside-{probe.id} {probe.name}"
            yield pytest.param(probe.control, probe, "open", id=name)
        bare = "open" if probe.id in BARE_OPEN else "closed"
        yield pytest.param("bare", probe, bare, id=f"bare-{probe.id} {probe.name}")
        sealed = "open" if probe.id in OPEN_BY_DESIGN else "closed"
        for arm, name in (("sealed-off", "sealed"), ("sealed-audit", "traced")):
            if probe.ends and name == "traced":
                continue
            yield pytest.param(arm, probe, sealed, id=f"{name}-{probe.id} {probe.name}")


@pytest.fixture(scope="module")
def outcomes(bridge: Cluster, client: Client) -> dict[str, Outcomes]:
    """What came of each probe in each arm. All arms take less than half a minute."""
    with prepared(bridge, client) as arms:
        return all_arms(arms)


@pytest.mark.parametrize(("arm", "probe", "expected"), list(cases()))
def test_escape(outcomes: dict[str, Outcomes], arm: str, probe: Probe, expected: str) -> None:
    status, evidence = outcomes[arm][probe.id]
    assert status == expected, f"{probe.id} {probe.name}: {status}, {evidence}"


# What the probes with `ends` do, where it is noted.
ENDING = {
    "clone with CLONE_UNTRACED": "libc.syscall(56, 0x800011, 0, 0, 0, 0)",
    "seccomp with a listener": "libc.syscall(317, 1, 8, ctypes.create_string_buffer(16))",
}


@pytest.mark.parametrize("level", ["audit", "full"])
@pytest.mark.parametrize("what", ENDING)
def test_what_escapes_a_tracer_ends_the_container(client: Client, what: str, level: str) -> None:
    script = f"import ctypes; libc = ctypes.CDLL(None); {ENDING[what]}; print('went on')"
    process = client.submit(
        parse_spec(SMALL | {"command": ["python3", "-c", script], "trace": level})
    )
    process = client.wait(process.id, timeout_seconds=120, poll_seconds=0.3)
    # strace may complain that the container has gone.
    lines = client.log(process.id, "stderr").data.decode().splitlines(keepends=True)
    said = "".join(line for line in lines if not line.startswith("strace: "))
    assert (process.exit_code, client.log(process.id).data) == (137, b"")
    assert said == f"sbseal: ended: the program tried to escape its tracer ({what})\n"


def test_nothing_of_it_is_left_on_the_nodes(
    outcomes: dict[str, Outcomes], cluster: Cluster
) -> None:
    assert outcomes
    look = (
        "ls -d /tmp/escape-* /run/netns/escape-* /dev/kvm /dev/shm/escape-* /shared/code/escape-*;"
        "ip -brief address | grep -E 'sbprobe|169.254'; pgrep -f escape-[0-9a-f]; ipcs | grep 0x5b;"
        "grep escape- /proc/keys"
    )
    for node in ("node1", "node2", "node3"):
        assert cluster.run(node, "sh", "-c", look).stdout == ""
