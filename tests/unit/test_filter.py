"""sbseal's system call filter: as it is built, against a second account of it; and as it works."""

import errno
import platform
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.container.helpers import SOURCES
from tests.support import bpf, calls
from tests.support.calls import AUDIT, CLONE_BITS, FOREIGN, IOCTLS, RULED
from tests.support.sealing import SealBox as Box

HERE = platform.machine()
PAGE = Path(__file__).resolve().parents[2] / "docs/sbseal.md"
# docs/sbseal.md says so.
SIZES = {"sbseal.c": 420, "filter.h": 200, "agent.h": 500}
TRY_CALLS = Path(__file__).resolve().parents[1] / "support/try_calls.py"
Filter = bpf.Filter
Filters = dict[tuple[str, bool], Filter]
each_architecture = pytest.mark.parametrize("architecture", bpf.ARCHITECTURES)
CLONE, SECCOMP, SOCKET, SOCKETPAIR, IOCTL = RULED[HERE]


@pytest.fixture(scope="session")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Filters:
    return {
        (name, noted): built
        for name in bpf.ARCHITECTURES
        for noted, built in bpf.build(name, tmp_path_factory.mktemp(f"filter-{name}")).items()
    }


# --- as it is built -----------------------------------------------------------------------------


def assert_as_told(
    filters: Filters, architecture: str, audit: int, number: int, arguments: tuple[int, ...]
) -> None:
    """In both forms: the kernel's own refusal, and the one that sbseal is asked for."""
    error = calls.verdict(architecture, audit, number, arguments)
    told = (audit, number) != (AUDIT[architecture], calls.UNNOTED)
    for noted in (False, True):
        form = bpf.NOTIFY if noted and told else bpf.ERRNO
        found = bpf.run(filters[architecture, noted].steps, audit, number, arguments)
        assert found == (form | error if error else bpf.ALLOW)


@each_architecture
def test_every_number_gives_what_the_table_says(filters: Filters, architecture: str) -> None:
    for number in range(600):
        for arguments in ((0,) * 6, (0xFFFFFFFF_FFFFFFFF,) * 6):
            for audit in (AUDIT[architecture], FOREIGN[0]):
                assert_as_told(filters, architecture, audit, number, arguments)
            x32 = number | 0x40000000
            assert_as_told(filters, architecture, AUDIT[architecture], x32, arguments)


ATOMS = [
    0, 1, 2, 3, 5, 6, 8, 9, 10, 15, 16, 17, 20, 38, 40, 132, 136, 255, 262, 0o2000001, 0o4002,
    0x11, 0x50F00, 0x3D0F00, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    *CLONE_BITS.values(), *IOCTLS.values(),
]  # fmt: skip
words = st.sampled_from(ATOMS) | st.integers(0, 0xFFFFFFFF)
arguments_of_a_call = st.tuples(
    *[st.builds(lambda low, high: high << 32 | low, words, st.just(0) | words)] * 6
)
audits = st.sampled_from([*AUDIT.values(), *AUDIT.values(), *FOREIGN])
ruled_numbers = st.sampled_from([number for pair in RULED.values() for number in pair])
numbers = (
    ruled_numbers
    | st.integers(0, 600)
    | st.integers(0, 600).map(lambda number: number | 0x40000000)
    | st.integers(0, 0xFFFFFFFF)
)


@each_architecture
@given(audit=audits, number=numbers, arguments=arguments_of_a_call)
@settings(max_examples=300, deadline=None)
def test_no_call_is_answered_otherwise_than_told(
    filters: Filters,
    architecture: str,
    audit: int,
    number: int,
    arguments: tuple[int, ...],
) -> None:
    assert_as_told(filters, architecture, audit, number, arguments)


@each_architecture
def test_all_families_types_and_protocols(filters: Filters, architecture: str) -> None:
    socket = RULED[architecture][2]
    audit = AUDIT[architecture]
    for family in range(48):
        for kind in (1, 2, 3, 4, 5, 10, 0x80801):
            for protocol in (0, 1, 6, 9, 15, 17, 132, 136, 256, 262, -1):
                arguments = (family, kind, protocol & 0xFFFFFFFF, 0, 0, 0)
                assert_as_told(filters, architecture, audit, socket, arguments)


@each_architecture
@given(asked=st.lists(st.tuples(audits, numbers, arguments_of_a_call), min_size=1, max_size=50))
@settings(max_examples=20, deadline=None)
def test_sbseal_itself_answers_as_its_filter_does(
    filters: Filters, architecture: str, asked: list[tuple[int, int, tuple[int, ...]]]
) -> None:
    filter_ = filters[architecture, True]
    assert filter_.answers(asked) == [bpf.run(filter_.steps, *call) for call in asked]


@each_architecture
def test_the_noted_form_differs_in_nothing_but_who_answers(
    filters: Filters, architecture: str
) -> None:
    silent, noted = (filters[architecture, form].steps for form in (False, True))
    assert len(silent) == len(noted)
    changed = [(one, other) for one, other in zip(silent, noted, strict=True) if one != other]
    refusals = [step for step in silent if step.code == 0x06 and step.operand >> 16 == 5]
    assert len(changed) == len(refusals) - 1
    for one, other in changed:
        assert (one.operand ^ bpf.ERRNO, one.code) == (other.operand ^ bpf.NOTIFY, other.code)


# --- as it works --------------------------------------------------------------------------------


@pytest.fixture(params=["silent", "noted"])
def each_form(box: Box, request: pytest.FixtureRequest) -> Box:
    box.refused = f"refused={request.param}"
    return box


def errors_of(box: Box, lines: list[str]) -> list[int]:
    """A call that is refused never reaches the kernel; the others get arguments that do nothing."""
    end = box.run([sys.executable, "-S", "-E", str(TRY_CALLS), *lines])
    assert (end.err, end.code) == (b"", 0)
    return [int(line) for line in end.out.split()]


def test_the_kernel_refuses_every_call_of_the_table(each_form: Box) -> None:
    refused = calls.refused(HERE)
    lines = [f"{number} -1 -1 -1 -1 -1" for number in refused]
    assert dict(zip(refused, errors_of(each_form, lines), strict=True)) == refused


def test_numbers_that_nobody_reviewed_do_not_exist(each_form: Box) -> None:
    lines = ["467 -1", "468 -1 -1 -1 -1 -1", "600", str(0x40000000 | 39), "-1"]
    assert set(errors_of(each_form, lines)) == {errno.ENOSYS}


# CLONE_UNTRACED ends the container where it is noted: see test_sbseal_calls.py.
QUIET_BITS = [bit for name, bit in CLONE_BITS.items() if name != "UNTRACED"]
RULES = {
    # CLONE_SIGHAND without CLONE_VM: let through, and then refused by the kernel itself.
    f"{CLONE} {0x800} 0 0 0 0": errno.EINVAL,
    **{f"{CLONE} {bit | 17} 0 0 0 0": errno.EPERM for bit in QUIET_BITS},
    f"{CLONE} {0x5_00000000 | CLONE_BITS['NEWUSER'] | 17} 0 0 0 0": errno.EPERM,
    f"{CLONE} 17 0 0 0 0": 0,
    # Without a filter it asks what the kernel can do; with one, and noted, it ends the container.
    f"{SECCOMP} 1 8 0": errno.EPERM,
    f"{SECCOMP} 1 {0x1_00000008} 0": errno.EPERM,
    f"{SECCOMP} 1 0 0": errno.EFAULT,
    f"{SOCKET} 1 1 0": 0,
    f"{SOCKET} 1 5 0": 0,
    f"{SOCKET} 2 1 0": 0,
    f"{SOCKET} 2 {0o2000001} 6": 0,
    f"{SOCKET} 2 {0o4002} 17": 0,
    f"{SOCKET} 2 2 1": errno.EPROTONOSUPPORT,
    f"{SOCKET} 2 3 255": errno.EPERM,
    f"{SOCKET} 2 5 132": errno.EPERM,
    f"{SOCKET} 2 1 132": errno.EPROTONOSUPPORT,
    f"{SOCKET} 2 1 262": errno.EPROTONOSUPPORT,
    f"{SOCKET} 2 2 136": errno.EPROTONOSUPPORT,
    f"{SOCKET} {0x7_00000028} 1 0": errno.EAFNOSUPPORT,
    f"{SOCKET} 16 3 0": 0,
    f"{SOCKET} 16 {0o2000002} 0": 0,
    **{f"{SOCKET} 16 3 {kind}": errno.EPROTONOSUPPORT for kind in (4, 9, 12, 15, 16)},
    **{f"{SOCKET} {family} 2 0": errno.EAFNOSUPPORT for family in (0, 9, 17, 29, 30, 38, 40, 44)},
    f"{SOCKETPAIR} 40 1 0 -1": errno.EAFNOSUPPORT,
    f"{SOCKETPAIR} 30 1 0 -1": errno.EAFNOSUPPORT,
    f"{SOCKETPAIR} 1 1 0 -1": errno.EFAULT,
    **{f"{IOCTL} 0 {code} 0": errno.EPERM for code in IOCTLS.values()},
    f"{IOCTL} 0 {0x9_00005412} 0": errno.EPERM,
    f"{IOCTL} 0 {0x5401} 0": errno.ENOTTY,
}


def test_the_kernel_goes_by_the_rules_for_arguments(each_form: Box) -> None:
    found = errors_of(each_form, list(RULES))
    assert dict(zip(RULES, found, strict=True)) == RULES


ORDINARY = """
import asyncio, multiprocessing, os, pathlib, socket, subprocess, sys, tempfile, threading

def double(number):
    return 2 * number

async def shell():
    process = await asyncio.create_subprocess_exec("true")
    return await process.wait()

async def talk():
    server = await asyncio.start_server(lambda r, w: (w.write(b"x"), w.close()), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    return await reader.read()

if __name__ == "__main__":
    threads = [threading.Thread(target=double, args=(1,)) for _ in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    with multiprocessing.Pool(2) as pool:
        assert pool.map(double, range(3)) == [0, 2, 4]
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
    assert asyncio.run(shell()) == 0
    assert asyncio.run(talk()) == b"x"
    left, right = socket.socketpair()
    left.send(b"y")
    assert right.recv(1) == b"y"
    assert socket.if_nameindex()
    memory = os.memfd_create("x")
    os.posix_spawn("/bin/true", ["true"], os.environ)
    os.pidfd_open(os.getpid())
    print("fine")
"""


def test_ordinary_programs_run(each_form: Box) -> None:
    program = each_form.marker.parent / "ordinary.py"
    program.write_text(ORDINARY)
    each_form.set_environment(["PATH=/usr/bin:/bin", f"TMPDIR={each_form.marker.parent}"])
    end = each_form.run([sys.executable, "-E", str(program)])
    assert (end.out, end.err, end.code) == (b"fine\n", b"", 0)


def test_a_call_of_32_bits_does_not_exist(each_form: Box) -> None:
    """i386's getpid, which would be x86-64's writev. Kernels without it end the caller."""
    facts = each_form.run(["true"]).facts.decode().splitlines()
    found = {fact for fact in facts if fact.startswith(("call i386", "call x32"))}
    assert found == ({"call i386 ENOSYS", "call x32 ENOSYS"} if HERE == "x86_64" else set())


# --- as it is described -------------------------------------------------------------------------


def test_the_page_lists_what_the_source_refuses_and_nothing_else() -> None:
    source = (SOURCES / "filter.h").read_text()
    blocks = re.findall(r"static const unsigned (not_\w+)\[\] = \{(.*?)\};", source, re.DOTALL)
    refused = {
        name.removeprefix("SYS_"): "EPERM" if kind == "not_permitted" else "ENOSYS"
        for kind, block in blocks
        for name in re.findall(r"\b(?:SYS_)?[a-z][a-z0-9_]*\b(?=,|$)", _plain(block))
    }
    assert set(refused) == calls.NAMES
    part = PAGE.read_text().partition("## Calls that are refused")[2].partition("\n### ")[0]
    described: dict[str, str] = {}
    for row in re.findall(r"^\| (`.*?) \| (E\w+) \|", part, re.MULTILINE):
        described |= dict.fromkeys(re.findall(r"`(\w+)`", row[0]), row[1])
    assert described == refused


def _plain(text: str) -> str:
    """Without comments and what is for the preprocessor."""
    return re.sub(r"/\*.*?\*/|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_page_names_every_ioctl_and_every_fact() -> None:
    page = PAGE.read_text()
    assert [name for name in IOCTLS if f"`{name}`" not in page] == []
    probe = (SOURCES / "sbprobe.c").read_text()
    tried = set(re.findall(r'(?:CALL|try_clone)\("(\w+)"', probe))
    assert [name for name in tried if f"`{name}`" not in page] == []


def test_the_page_says_how_long_the_filter_is(filters: Filters) -> None:
    told = re.search(r"^(\d+) instructions on x86-64", PAGE.read_text(), re.MULTILINE)
    assert told
    assert HERE != "x86_64" or int(told[1]) == len(filters[HERE, False].steps)


def test_the_source_is_short_enough_to_be_read() -> None:
    lengths = {name: len((SOURCES / name).read_text().splitlines()) for name in SIZES}
    assert {name: length for name, length in lengths.items() if length >= SIZES[name]} == {}
