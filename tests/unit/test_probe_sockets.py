"""Which sockets of its network a container is said to find."""

import subprocess
import sys
from pathlib import Path

import pytest

from slurmbridge.model import Helpers

HOLD = """
import socket, subprocess, sys
held = {
    "none": lambda: [],
    "unnamed": lambda: [socket.socketpair()],
    "abstract": lambda: [socket.socket(socket.AF_UNIX)],
    "udp": lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)],
}[sys.argv[1]]()
if sys.argv[1] == "abstract":
    held[0].bind(chr(0) + "named")
if sys.argv[1] == "udp":
    held[0].bind(("127.0.0.1", 4000))
subprocess.run([sys.argv[2], "inside"], check=True)
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("none", []),
        ("unnamed", []),
        ("abstract", ["sockets net/unix 1"]),
        ("udp", ["sockets net/udp 1"]),
    ],
)
def test_a_socket_that_can_be_reached_is_told(
    sealing_helpers: Helpers, what: str, told: list[str]
) -> None:
    """One of Unix without a name is reached by who holds its descriptor, and by nobody else."""
    argv = [sys.executable, "-c", HOLD, what, str(Path(sealing_helpers.path) / "sbprobe")]
    said = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", *argv],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in said.stdout.splitlines() if line.startswith("sockets")] == told
