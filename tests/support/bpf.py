"""sbseal's filter as it is built, and an interpreter for what the kernel would make of it."""

import platform
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurmbridge.container.helpers import SOURCES

_HARNESS = Path(__file__).with_name("filter.c")
# Numbers of 64-bit ARM for a compiler that has those of another machine.
_GENERIC_NUMBERS = """\
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm-generic/unistd.h>
"""
# The other one is built from x86-64 as well: its numbers are all that differs.
ARCHITECTURES = ("x86_64", "aarch64") if platform.machine() == "x86_64" else ("aarch64",)
_WORD = 0xFFFFFFFF

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000


@dataclass(frozen=True)
class Instruction:
    """One `struct sock_filter`."""

    code: int
    yes: int
    no: int
    operand: int


@dataclass(frozen=True)
class Filter:
    """The filter that sbseal loads, and the program that prints it."""

    steps: tuple[Instruction, ...]
    argv: tuple[str, ...]

    def answers(self, asked: Sequence[tuple[int, int, Sequence[int]]]) -> list[int]:
        """What sbseal itself makes of calls: architecture, number, arguments."""
        given = b"".join(_packed(*call) for call in asked)
        printed = _printed(self.argv, given)[4 + 8 * len(self.steps) :]
        return [answer for (answer,) in struct.iter_unpack("<I", printed)]


def _printed(argv: Sequence[str], given: bytes = b"") -> bytes:
    done = subprocess.run(argv, check=True, input=given, stdout=subprocess.PIPE)
    return done.stdout


def build(architecture: str, folder: Path) -> dict[bool, Filter]:
    """The filters that sbseal loads on an architecture: without notes, and with them."""
    source = SOURCES / "sbseal.c"
    flags: list[str] = []
    if architecture != platform.machine():
        for name in ("agent.h", "filter.h", "sbseal.c"):
            text = (SOURCES / name).read_text().replace("__x86_64__", "__none__")
            source = folder / name
            source.write_text(text.replace("__aarch64__", "__x86_64__"))
        (folder / "asm").mkdir()
        (folder / "asm/unistd.h").write_text(_GENERIC_NUMBERS)
        flags = [f"-I{folder}"]
    program = folder / "filter"
    argv = ["gcc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", *flags, f'-DSBSEAL="{source}"']
    subprocess.run([*argv, "-o", str(program), str(_HARNESS)], check=True)
    return {False: _printed_by(str(program)), True: _printed_by(str(program), "noted")}


def _printed_by(*argv: str) -> Filter:
    raw = _printed(argv)[4:]
    return Filter(tuple(Instruction(*fields) for fields in struct.iter_unpack("<HBBI", raw)), argv)


def _packed(architecture: int, number: int, arguments: Sequence[int]) -> bytes:
    """See seccomp(2) for `struct seccomp_data`."""
    return struct.pack("<IIQ6Q", number & _WORD, architecture, 0, *arguments)


def run(
    program: Sequence[Instruction], architecture: int, number: int, arguments: Sequence[int]
) -> int:
    """What the filter answers for a call."""
    data = _packed(architecture, number, arguments)
    register, at = 0, 0
    while True:
        step = program[at]
        at += 1
        match step.code:
            case 0x20:  # load the word at
                (register,) = struct.unpack_from("<I", data, step.operand)
            case 0x54:  # and
                register &= step.operand
            case 0x06:  # return
                return step.operand
            case 0x15:
                at += step.yes if register == step.operand else step.no
            case 0x25:
                at += step.yes if register > step.operand else step.no
            case 0x45:
                at += step.yes if register & step.operand else step.no
            case _:
                raise AssertionError(f"what is {step.code:#x}?")
