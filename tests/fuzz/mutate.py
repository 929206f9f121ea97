"""Feeds a harness of this folder with changed inputs, where there is no libFuzzer.

Nothing steers it towards new paths: what it lacks in aim, it makes up for in number, and its seeds
are what the code reads in earnest.
"""

import argparse
import contextlib
import hashlib
import os
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BATCH = 500
LONGEST = 4096
PROC = ("status", "net/dev", "net/route", "net/unix", "cgroup", "mountinfo", "status", "mountinfo")
TOKENS = (
    b"\0", b"\n", b"\t", b" ", b":", b"=", b"\\", b"\\040", b"\\777", b"\\", b"0", b"-1", b"/",
    b"NSpid:\t", b"NSpid:", b"PPid:", b"CapEff:\t", b"Cap", b"Seccomp:\t", b"NoNewPrivs:",
    b"18446744073709551616", b"nproc=", b"nofile=", b"fsize=", b"0000000000000000", b"\xff" * 8,
)  # fmt: skip
SEEDS = (
    b"\1sh\0-c\0echo\0", b"\1A=b\0PATH=/usr/bin\0", b"\1\0", b"\1", b"\1x", b"\0nproc=4096",
    b"\2nofile=1", b"\4fsize=18446744073709551615", b"\4fsize=", b"\2=",
    b"\7a\\040b\\134", b"\7\\", b"\7\\1", b"\6PPid:\t1\nNSpid:\t5\t1\n",
    b"\0CapEff:\t0000000000000000\n",
    b"\5" + b"x " * 5 + b"/" + b"a" * 5000 + b" rw\n", b"\4" + b"0::" + b"/" * 3000,
)  # fmt: skip


def seeds() -> list[bytes]:
    """What is written above, and what /proc says here."""
    found = list(SEEDS)
    for number, name in enumerate(PROC):
        with contextlib.suppress(OSError):
            found.append(bytes([number]) + Path("/proc/self", name).read_bytes()[:LONGEST])
    return found


def _flip(chance: random.Random, data: bytearray) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _put(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(1, len(data) + 1)
    data[at:at] = chance.choice(TOKENS)


def _replace(chance: random.Random, data: bytearray) -> None:
    token = chance.choice(TOKENS)
    at = chance.randrange(1, len(data) + 1)
    data[at : at + len(token)] = token


def _cut(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(1, len(data) + 1)
    del data[start : start + chance.randrange(1, 40)]


def _repeat(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(1, len(data) + 1)
    data[start:start] = data[start : start + chance.randrange(1, 60)] * chance.randrange(1, 20)


CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _put, _replace, _cut, _repeat,
)  # fmt: skip


def inputs(chance: random.Random) -> Iterator[bytes]:
    """The seeds as they are, then changed without end."""
    known = seeds()
    yield from known
    while True:
        data = bytearray(chance.choice(known))
        for _ in range(chance.randrange(1, 8)):
            chance.choice(CHANGES)(chance, data)
        yield bytes(data[: 2 * LONGEST])


def packed(batch: list[bytes]) -> bytes:
    """As the harness reads it."""
    return b"".join(struct.pack("=I", len(data)) + data for data in batch)


def survives(harness: Path, batch: list[bytes], folder: str) -> bool:
    """Whether a harness of its own gets through a batch."""
    done = subprocess.run(
        [str(harness)],
        input=packed(batch),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    return done.returncode == 0 and len(done.stdout) == len(batch)


def fuzz(harness: Path, seconds: float, seed: int) -> tuple[int, list[bytes]]:
    """How many inputs were run, and those that the harness did not survive."""
    source = inputs(random.Random(seed))
    runs = 0
    findings: list[bytes] = []
    deadline = time.monotonic() + seconds
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        while time.monotonic() < deadline and not findings:
            batch = [next(source) for _ in range(BATCH)]
            runs += len(batch)
            if not survives(harness, batch, folder):
                findings = [data for data in batch if not survives(harness, [data], folder)]
                findings = findings or [packed(batch)]
    return runs, findings


def main() -> int:
    """Run one harness; what it finds is kept in the folder of the caller."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("harness", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    runs, findings = fuzz(options.harness.resolve(), options.seconds, options.seed)
    report = f"{options.harness.name}: {runs} inputs, seed {options.seed}, {len(findings)} findings"
    for data in findings:
        path = Path(f"{options.harness.name}-{hashlib.sha256(data).hexdigest()[:12]}")
        path.write_bytes(data)
        report += f"\n{path}: {data[:100]!r}"
    os.write(1, f"{report}\n".encode())
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
