"""The gate: a program starts only when its container was found to be what it has to be."""

import time
from pathlib import Path

import pytest

from slurmbridge.container.attestation import read_found
from slurmbridge.container.facts import compare
from tests.support.builders import GOLDEN
from tests.support.stage import (
    WAYS,
    Stage,
    each_way,
    running_below,
    soon,
    staged,
)

OPTIONAL = "mount /dev/full rw"
UNSEALED = "the container is not sealed: "
# The time that a silent container is given, made short.
HASTY = ("read -r -t 60", "read -r -t 0.3")


@pytest.fixture
def minimal(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "minimal.toml", tmp_path)


def facts(stage: Stage) -> list[str]:
    return (stage.left("facts") or "").splitlines()


# --- as expected ---


@each_way
def test_what_was_found_and_expected_is_the_same_on_the_node_and_at_the_bridge(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    began = int(time.time())
    assert stage.run() == 0
    found = read_found(stage.left("attested"), stage.left("facts"))
    assert found is not None
    assert found.node == "node1"
    assert began <= found.at.timestamp() <= time.time()
    assert not compare(found.facts, (stage.left("facts.expected") or "").splitlines())
    assert {"seccomp 2", "outside seccomp 2", "outside exe same"} <= set(found.facts)
    assert not [line for line in found.facts if line.startswith("pid ")]


def test_a_container_is_looked_at_from_outside_by_its_launcher(minimal: Stage) -> None:
    assert minimal.run() == 0
    side, launcher, *pairs = [word.decode() for word in minimal.seen("probe")]
    assert side == "outside"
    assert launcher.isdecimal()
    assert pairs == [
        "exe=pod/sb/sbseal",
        "/input=input",
        "/code=code",
        "/output=pod/output",
    ]


def test_a_fact_that_may_be_missing_may_also_be_there(minimal: Stage) -> None:
    assert f"? {OPTIONAL}" in (minimal.left("facts.expected") or "").splitlines()
    minimal.found(OPTIONAL)
    assert minimal.run() == 0
    assert OPTIONAL in facts(minimal)


def test_a_fact_that_is_told_twice_is_one_fact(minimal: Stage) -> None:
    minimal.found("seccomp 2")
    assert minimal.run() == 0
    assert facts(minimal).count("seccomp 2") == 1


# --- otherwise ---


@pytest.mark.parametrize(
    ("golden", "line"), [(WAYS[0], "mount /home rw"), (WAYS[1], "interface eth0"), (WAYS[1], "? y")]
)
def test_with_a_fact_that_is_not_expected_no_program_starts(
    golden: Path, line: str, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    stage.found(line)
    assert stage.refused() == f"{UNSEALED}found {line}"
    assert line in facts(stage)
    assert soon(lambda: not running_below(stage.context))


@pytest.mark.parametrize(
    ("golden", "line"), [(WAYS[0], "seccomp 2"), (WAYS[1], "outside namespace net own")]
)
def test_without_a_fact_that_is_expected_no_program_starts(
    golden: Path, line: str, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    stage.not_found(line)
    assert stage.refused() == f"{UNSEALED}missed {line}"
    assert line not in facts(stage)
    assert soon(lambda: not running_below(stage.context))


def test_everything_that_differs_is_told(minimal: Stage) -> None:
    minimal.found("umask 022", "hostname node1")
    minimal.not_found("umask 077", "hostname sealed")
    both = "found hostname node1, umask 022; missed hostname sealed, umask 077"
    assert minimal.refused() == UNSEALED + both


def test_what_inside_says_of_outside_does_not_stand_for_it(minimal: Stage) -> None:
    # The probe outside finds less; a container cannot know what it will find.
    minimal.not_found("outside /input same")
    minimal.found("outside /input other")
    assert minimal.refused() == f"{UNSEALED}found outside /input other; missed outside /input same"


def test_a_line_that_is_marked_as_optional_counts_for_nothing_when_it_is_found(
    minimal: Stage,
) -> None:
    minimal.found(f"? {OPTIONAL}")
    assert minimal.refused() == f"{UNSEALED}found ? {OPTIONAL}"


def test_a_container_that_nobody_sees_from_outside_is_refused(minimal: Stage) -> None:
    (minimal.out / "blind").touch()
    assert minimal.refused() == "the container cannot be seen from outside"
    assert minimal.left("attested") is None


# --- no answer ---


@each_way
def test_a_container_that_dies_before_its_end_is_refused_with_its_last_words(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    stage.before("echo first >&2\necho 'FATAL: no such thing' >&2\nexit 255")
    assert stage.refused() == "the container did not start: FATAL: no such thing"
    assert stage.left("attested") is None


def test_a_container_that_dies_after_some_facts_is_refused(minimal: Stage) -> None:
    minimal.before('head --lines=20 "$out/inside" >&3; echo "sbseal: it broke" >&2; exit 78')
    assert minimal.refused() == "the container did not start: sbseal: it broke"


def test_last_words_without_end_are_cut(minimal: Stage) -> None:
    minimal.before("head --bytes=100000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert minimal.refused() == "the container did not start: " + "x" * 500


def test_a_container_that_says_nothing_of_its_death_is_refused(minimal: Stage) -> None:
    minimal.before("exit 1")
    assert minimal.refused() == "the container did not start:"


@each_way
def test_a_probe_that_hangs_is_not_waited_for_for_ever(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    stage.replace(HASTY)
    stage.before("echo 'hanging' >&2\nexec sleep 60")
    assert stage.refused() == "the container did not start: hanging"
    assert soon(lambda: not running_below(stage.context))


def test_an_end_that_is_never_told_is_not_waited_for_for_ever(minimal: Stage) -> None:
    minimal.replace(HASTY)
    minimal.before('cat "$out/inside" >&3\nexec sleep 60')
    assert minimal.refused() == "the container did not start:"
