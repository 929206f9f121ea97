"""What a program writes to /output is bounded, kept as it is, and judged afterwards."""

from collections.abc import Callable
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import until

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
LEVELS = pytest.mark.parametrize("trace", ["off", "audit"])
MIB = 1 << 20
BOUND = {"resources": {"memory_mib": 512, "output_mib": 100}}
FULL = "/output was full when it ended, and may not hold all that it wrote"


def python(body: str) -> tuple[str, ...]:
    return ("python3", "-c", body)


WRITES = """
import errno
written = 0
try:
    with open("/output/large", "wb", buffering=0) as file:
        while written < 10 << 30:
            written += file.write(bytes(1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], written)
"""


@LEVELS
def test_ten_gigabytes_end_at_the_bound(client: Client, run: Run, trace: str) -> None:
    process = run(*python(WRITES), trace=trace, **BOUND)
    assert client.log(process.id).data.split() == [b"ENOSPC", str(100 * MIB).encode()]
    assert (process.state, process.reason) == (ProcessState.COMPLETE, FULL)
    sizes = {file.path: file.size_bytes for file in process.outputs}
    assert sizes["output/large"] == 100 * MIB


MANY = """
import errno
made = 0
try:
    for made in range(1_000_000):
        open(f"/output/{made}", "w").close()
except OSError as error:
    print(errno.errorcode[error.errno], made)
"""


def test_a_million_files_end_at_the_bound(client: Client, run: Run) -> None:
    process = run(*python(MANY), limits={"output_files": 2000}, **BOUND)
    assert client.log(process.id).data.split() == [b"ENOSPC", b"2000"]
    assert (process.state, process.reason) == (ProcessState.COMPLETE, FULL)
    assert len([file for file in process.outputs if file.path.startswith("output/")]) == 2000


UNLINKED = """
import errno, os
file = open("/output/gone", "wb", buffering=0)
os.unlink("/output/gone")
written = 0
try:
    while True:
        written += file.write(bytes(1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], written)
"""


def test_what_has_no_name_counts_too(client: Client, run: Run) -> None:
    process = run(*python(UNLINKED), **BOUND)
    assert client.log(process.id).data.split() == [b"ENOSPC", str(100 * MIB).encode()]
    # What it filled was free again when it had ended.
    assert (process.state, process.reason) == (ProcessState.COMPLETE, None)


ODD = r"""
import os
os.chdir("/output")
open("plain", "w").write("kept")
open("new\nline", "w").write("kept")
open("-rf", "w").write("kept")
os.mkfifo("pipe")
os.symlink("/etc/shadow", "shadow")
os.symlink("/input", "input")
open("first", "w").close()
os.link("first", "second")
os.makedirs("/".join(["deep"] * 100))
open(b"\xff\xfe", "w").close()
os.mkdir("shut", 0)
try:
    os.mknod("device", 0o020666, os.makedev(1, 1))
except OSError as error:
    print(type(error).__name__)
"""


@LEVELS
def test_only_plain_files_are_carried_and_all_else_is_told(
    client: Client, run: Run, trace: str
) -> None:
    process = run(*python(ODD), trace=trace, **BOUND)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"PermissionError\n"
    kept = {file.path for file in process.outputs if file.path.startswith("output/")}
    assert kept == {"output/plain", "output/new\nline", "output/-rf"}
    ignored = " ".join(process.outputs_ignored)
    for name in ("pipe", "shadow", "input", "first", "second", "deep"):
        assert name in ignored


def test_a_file_that_seems_to_be_huge_is_too_much(run: Run) -> None:
    process = run("truncate", "--size=100G", "/output/sparse", **BOUND)
    assert process.state is ProcessState.EXECUTOR_ERROR
    # As large as a single file may be, and no larger.
    assert process.exit_code == 128 + 25


SAVES = """
import signal, time
open("/output/before", "wb").write(bytes(50 << 20))
def save(*_):
    open("/output/last", "w").write("words")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(300)
"""


@LEVELS
def test_outputs_of_who_is_canceled_are_kept(client: Client, trace: str) -> None:
    wanted: dict[str, Any] = {**SMALL, **BOUND, "trace": trace}
    one = client.submit(parse_spec({**wanted, "command": list(python(SAVES))})).id
    until("begun", lambda: client.log(one).data)
    client.cancel(one)
    process = client.wait(one, timeout_seconds=60)
    assert process.state is ProcessState.CANCELED
    sizes = {file.path: file.size_bytes for file in process.outputs}
    assert (sizes["output/before"], sizes["output/last"]) == (50 * MIB, 5)


def test_the_bound_is_attested(client: Client, run: Run) -> None:
    process = run("true", limits={"output_files": 7}, **BOUND)
    facts = client.attestation(process.id).facts
    assert f"size /output {100 * MIB}" in facts
    assert "inodes /output 8" in facts
