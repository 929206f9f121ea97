"""What a container has to be found to be, and that the probe tells just this."""

import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.container.apptainer import Bind, Bounds, SealedContainer
from slurmbridge.container.facts import OPTIONAL, REFUSED_CALLS, compare, expected_facts
from slurmbridge.container.helpers import SOURCES
from slurmbridge.model import Helpers

CONTAINER = SealedContainer(
    binds=(Bind("/c/in", "/input"), Bind("/c/out", "/output", writable=True)),
    working_directory="/code",
    bounds=Bounds(11, 22, 33, 44, 55, 66, 77),
    variables=("A", "HOME"),
)
EXPECTED = expected_facts(CONTAINER)
REQUIRED = [line for line in EXPECTED if not line.startswith(OPTIONAL)]
PROBE = (SOURCES / "sbprobe.c").read_text()
LINES = st.sampled_from(["a", "b", "c x", "d", "e"])


# --- what is expected ---


@pytest.mark.parametrize(
    "line",
    [
        "user 1000 1000 1000", "group 1000 1000 1000", "hostname sealed", "umask 077",
        "limit nproc 11", "limit nofile 22", "limit fsize 33", "size /tmp 44", "size /dev/shm 55",
        "variable A", "variable HOME",
        "capabilities none", "no_new_privs 1", "seccomp 2", "interface lo", "resolver none",
        "cgroup /", "processes 2", "mount / ro", "mount /input ro", "mount /output rw",
        "writable /output", "closed /proc/1/environ", "call unshare EPERM", "call clone3 ENOSYS",
        "outside capabilities none", "outside seccomp 2", "outside exe same", "outside /input same",
        "outside namespace net own", "outside namespace user own", "outside descriptor 3 pipe",
    ],
)  # fmt: skip
def test_a_container_has_to_be(line: str) -> None:
    assert REQUIRED.count(line) == 1


@pytest.mark.parametrize("of_what", ["interface ", "capabilities ", "outside interface "])
def test_of_some_things_there_is_one_alone(of_what: str) -> None:
    assert len([line for line in EXPECTED if line.startswith(of_what)]) == 1


def test_what_cannot_be_written_is_not_expected_to_be_writable() -> None:
    writable = {line.split()[1] for line in EXPECTED if line.startswith("writable ")}
    assert writable == {"/dev", "/dev/mqueue", "/output"}


def test_no_call_is_expected_to_succeed() -> None:
    errors = {line.split()[-1] for line in EXPECTED if re.match(r"(\? )?call ", line)}
    assert errors == {"EPERM", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT"}


def test_the_lines_are_in_order_and_each_stands_once() -> None:
    assert list(EXPECTED) == sorted(set(EXPECTED))
    assert not [line for line in REQUIRED if f"{OPTIONAL}{line}" in EXPECTED]


def test_what_may_be_missing_opens_nothing() -> None:
    optional = [line.removeprefix(OPTIONAL) for line in EXPECTED if line.startswith(OPTIONAL)]
    assert {line.split()[0] for line in optional} == {"call", "limit", "mount"}
    writable = [line for line in optional if line.startswith("mount ") and line.endswith(" rw")]
    assert writable == ["mount /dev/full rw"]


def test_another_container_has_to_be_found_otherwise() -> None:
    other = SealedContainer(
        CONTAINER.binds, CONTAINER.working_directory, Bounds(12, 22, 33, 44, 55, 66, 77), ("A",)
    )
    differences = compare(REQUIRED, expected_facts(other))
    assert differences.unexpected == ("limit nproc 11", "variable HOME")
    assert differences.missing == ("limit nproc 12",)


def test_a_traced_container_has_the_descriptor_by_which_the_kernel_asks() -> None:
    noted = expected_facts(replace(CONTAINER, refusals_noted=True))
    assert set(noted) - set(EXPECTED) == {"outside descriptor 5 seccomp"}
    assert set(EXPECTED) < set(noted)
    assert '"anon_inode:seccomp notify"' in PROBE
    assert 'return "seccomp";' in PROBE


# --- comparing ---


def test_what_is_found_as_expected_does_not_differ() -> None:
    assert not compare(REQUIRED, EXPECTED)


def test_what_may_be_missing_may_be_there() -> None:
    assert not compare([line.removeprefix(OPTIONAL) for line in EXPECTED], EXPECTED)


@pytest.mark.parametrize("line", REQUIRED)
def test_any_line_that_is_missing_is_a_difference(line: str) -> None:
    found = [other for other in REQUIRED if other != line]
    assert compare(found, EXPECTED).missing == (line,)


def test_nothing_found_is_everything_missed() -> None:
    assert compare([], EXPECTED).missing == tuple(REQUIRED)


@given(st.text())
def test_any_other_line_is_a_difference(line: str) -> None:
    if line not in REQUIRED and f"{OPTIONAL}{line}" not in EXPECTED:
        assert compare([*REQUIRED, line], EXPECTED).unexpected == (line,)


@given(st.lists(LINES), st.sets(LINES), st.sets(LINES))
def test_a_line_is_unexpected_or_missing_or_neither(
    found: list[str], required: set[str], optional: set[str]
) -> None:
    expected = [*required, *(f"{OPTIONAL}{line}" for line in optional)]
    differences = compare(found, expected)
    assert set(differences.unexpected) == set(found) - required - optional
    assert set(differences.missing) == required - set(found)
    assert bool(differences) is bool(set(found) - required - optional or required - set(found))
    for lines in (differences.unexpected, differences.missing):
        assert list(lines) == sorted(lines)


# --- what the probe tells ---


def calls_in_source() -> list[str]:
    return re.findall(r'(?:CALL|try_clone)\("(\w+)"', PROBE) + re.findall(r'"call (\w+) ', PROBE)


def calls(lines: Iterable[str]) -> set[str]:
    return {line.removeprefix(OPTIONAL).split()[1] for line in lines if "call " in line}


def kinds(lines: Iterable[str]) -> set[str]:
    """The first word of each fact; for those from outside, the second as well."""
    plain = (line.removeprefix(OPTIONAL).split() for line in lines)
    return {" ".join(words[:2]) if words[0] == "outside" else words[0] for words in plain}


def test_every_call_that_is_tried_is_expected_to_be_refused_and_no_other() -> None:
    found = calls_in_source()
    assert len(found) == len(set(found))
    assert set(found) == calls(EXPECTED)
    assert set(REFUSED_CALLS) == set(found) - {"x32", "i386"}


@pytest.fixture(scope="module")
def told(sealing_helpers: Helpers) -> list[str]:
    """What the probe tells of this host."""
    found = subprocess.run(
        [Path(sealing_helpers.path) / "sbprobe", "inside"],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"A": "b"},
        timeout=30,
    )
    return found.stdout.splitlines()


def test_a_probe_tells_each_kind_of_fact_that_is_expected_from_inside(told: list[str]) -> None:
    inside = [line for line in EXPECTED if not line.startswith("outside ")]
    # On an open host, what has to be closed is open, and there is no /output.
    assert kinds(inside) - kinds(told) <= {"closed", "inodes"}
    assert '"inodes /output' in PROBE
    assert {"open", "closed"} & kinds(told)
    assert '"closed"' in PROBE


def test_a_probe_tries_every_call(told: list[str]) -> None:
    foreign = {"x32", "i386"} if platform.machine() == "x86_64" else set()
    tried = [line.split()[1] for line in told if line.startswith("call ")]
    assert sorted(tried) == sorted(set(REFUSED_CALLS) | foreign)


def test_a_probe_of_an_open_host_finds_that_it_is_not_sealed(told: list[str]) -> None:
    differences = compare(told, EXPECTED)
    missing = {"no_new_privs 1", "hostname sealed", "call unshare EPERM", "processes 2"}
    assert missing & set(differences.missing)
    assert "variable HOME" in differences.missing
    assert "variable A" in told


@pytest.mark.parametrize("kind", sorted(kinds(line for line in EXPECTED if "outside " in line)))
def test_a_probe_tells_each_kind_of_fact_that_is_expected_from_outside(kind: str) -> None:
    word = kind.removeprefix("outside ")
    # Of programs and folders it tells what the script asks for.
    asked = {"exe", "/input", "/code", "/output"}
    script = Path(SOURCES.parents[1], "sbatch_templates/parts/attest.j2").read_text()
    if word in asked:
        assert f" {word}=" in script
    elif word == "namespace":
        assert 'printf("outside namespace %s %s' in PROBE
    else:
        assert f'printf("%s{word} ' in PROBE
