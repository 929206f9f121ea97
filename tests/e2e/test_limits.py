"""What a specification bounds is bounded, and what is attested can be verified."""

import json
from collections.abc import Callable

import pytest

from slurmbridge.client import Client
from slurmbridge.container.attestation import verify
from slurmbridge.errors import AttestationInvalid, NotAttested
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
LEVELS = pytest.mark.parametrize("trace", ["off", "audit"])

LIMITS = """
import json, os, resource
def bytes_of(folder):
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize
print(json.dumps({
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
    "tmp": bytes_of("/tmp"),
    "shm": bytes_of("/dev/shm"),
}))
"""


@LEVELS
def test_limits_and_sizes_are_those_of_the_specification(
    client: Client, run: Run, trace: str
) -> None:
    limits = {"processes": 100, "open_files": 200, "file_size_mib": 3}
    resources = {"memory_mib": 256, "tmp_mib": 7, "shm_mib": 9}
    process = run("python3", "-c", LIMITS, limits=limits, resources=resources, trace=trace)
    assert process.state is ProcessState.COMPLETE, process.reason
    mib = 1024 * 1024
    assert json.loads(client.log(process.id).data) == {
        "processes": [100, 100],
        "open_files": [200, 200],
        "file_size": [3 * mib, 3 * mib],
        "tmp": 7 * mib,
        "shm": 9 * mib,
    }


def test_a_full_temporary_folder_is_the_program_s_own_affair(client: Client, run: Run) -> None:
    process = run(
        "sh", "-c", "head -c 9000000 /dev/zero >/tmp/full; echo code $?; ls /output",
        resources={"memory_mib": 256, "tmp_mib": 4},
    )  # fmt: skip
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"code 1\n"
    assert b"No space left on device" in client.log(process.id, "stderr").data


def test_a_file_above_its_size_ends_who_writes_it(run: Run) -> None:
    process = run(
        "sh", "-c", "exec head -c 3000000 /dev/zero >/output/large", limits={"file_size_mib": 1}
    )
    # 128 and SIGXFSZ.
    assert process.exit_code == 128 + 25
    assert process.state is ProcessState.EXECUTOR_ERROR


SAVES = """
import signal, sys, time
def save(*_):
    open("/output/saved", "w").close()
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(300)
"""


@LEVELS
def test_a_canceled_program_has_time_to_save(client: Client, bridge: Cluster, trace: str) -> None:
    assert bridge
    spec = parse_spec({**SMALL, "command": ["python3", "-c", SAVES], "trace": trace})
    process_id = client.submit(spec).id
    until("begun", lambda: client.log(process_id).data == b"begun\n")
    client.cancel(process_id)
    process = client.wait(process_id, timeout_seconds=60, poll_seconds=0.2)
    assert process.state is ProcessState.CANCELED
    assert "output/saved" in [file.path for file in process.outputs]


@LEVELS
def test_an_ended_process_has_an_attestation_that_verifies(
    client: Client, run: Run, trace: str
) -> None:
    process = run("true", trace=trace)
    attestation = client.attestation(process.id)
    [key] = [key for key in client.signing_keys() if key.public_key == attestation.public_key]
    verify(attestation, process, public_key=key.public_key)
    assert process.attested is True
    forged = attestation.model_copy(update={"node": "elsewhere"})
    with pytest.raises(AttestationInvalid):
        verify(forged, process, public_key=key.public_key)


def test_what_never_ran_has_no_attestation(client: Client) -> None:
    spec = parse_spec({**SMALL, "command": ["true"], "partition": "parked"})
    process_id = client.submit(spec).id
    client.cancel(process_id)
    process = client.wait(process_id, timeout_seconds=60, poll_seconds=0.2)
    assert process.state is ProcessState.CANCELED
    assert process.attested is None
    with pytest.raises(NotAttested):
        client.attestation(process_id)


def test_the_command_line_verifies_and_fails_where_it_cannot(
    bridge: Cluster, token: str, run: Run
) -> None:
    process = run("true")
    show = ("env", f"SLURMBRIDGE_TOKEN={token}", "slurmbridge", "show", process.id, "--verify")
    good = bridge.run("bridge", *show)
    assert (good.exit_code, good.stdout.splitlines()[0].split(":")[0]) == (0, "sealed")
    bad = bridge.run("bridge", *show, "--key", "00" * 32)
    assert bad.exit_code == 1
    assert "not one of this bridge's key" in bad.stderr
