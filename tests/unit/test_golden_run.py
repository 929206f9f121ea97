"""What a script refuses before a container is started, and what it does at a TERM."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.builders import GOLDEN
from tests.support.stage import (
    WEIGHED_OFTEN,
    Stage,
    awaited,
    each_way,
    end_group,
    running_below,
    soon,
    staged,
)


@pytest.fixture
def minimal(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "minimal.toml", tmp_path)


# --- the image ---


def test_an_image_that_is_not_the_recorded_one_is_refused(minimal: Stage) -> None:
    minimal.image.write_bytes(b"an imagf")
    assert minimal.refused() == "the image is not the recorded one"
    assert not minimal.container_was_started
    assert not (minimal.out / "squashfuse").exists()


def test_an_image_that_is_gone_is_refused(minimal: Stage) -> None:
    minimal.image.unlink()
    assert minimal.refused() == "the image cannot be opened"
    assert not minimal.container_was_started


def test_an_image_that_has_been_revoked_is_refused(minimal: Stage) -> None:
    minimal.image.with_name(f"{minimal.image.name}.revoked").touch()
    assert minimal.refused() == "the image has been revoked"
    assert not minimal.container_was_started
    assert not (minimal.out / "squashfuse").exists()


def test_an_image_that_cannot_be_mounted_is_refused(minimal: Stage) -> None:
    minimal.stub("mountpoint", "exit 1")
    minimal.stub("squashfuse_ll", "exit 1")
    assert minimal.refused() == "the image cannot be mounted"
    assert not minimal.container_was_started


@pytest.fixture
def equipped(tmp_path: Path) -> Stage:
    return staged(GOLDEN / "equipped.toml", tmp_path)


def test_requirements_that_are_not_the_recorded_ones_are_refused(equipped: Stage) -> None:
    equipped.requirements.write_bytes(b"others")
    assert equipped.refused() == "the requirements are not the recorded ones"
    assert not equipped.container_was_started


def test_requirements_that_are_gone_are_refused(equipped: Stage) -> None:
    equipped.requirements.unlink()
    assert equipped.refused() == "the requirements cannot be opened"


def test_a_container_that_sees_other_requirements_is_refused(equipped: Stage) -> None:
    equipped.not_found("outside /requirements same")
    refused = equipped.refused()
    assert refused == "the container is not sealed: missed outside /requirements same"


# --- the helpers ---


@pytest.mark.parametrize("name", ["sbseal", "sbprobe"])
def test_a_helper_that_is_not_the_recorded_one_is_refused(name: str, minimal: Stage) -> None:
    with (minimal.root / "helpers" / name).open("a") as file:
        file.write("# a byte more\n")
    assert minimal.refused() == "the sealing helpers are not the recorded ones"
    assert not minimal.container_was_started


def test_helpers_that_were_exchanged_for_each_other_are_refused(minimal: Stage) -> None:
    one, other = (minimal.root / "helpers" / name for name in ("sbseal", "sbprobe"))
    was = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(was)
    assert minimal.refused() == "the sealing helpers are not the recorded ones"


@pytest.mark.parametrize("name", ["sbseal", "sbprobe"])
def test_a_helper_that_is_missing_is_refused(name: str, minimal: Stage) -> None:
    (minimal.root / "helpers" / name).unlink()
    assert minimal.refused() == "the sealing helpers are missing"
    assert not minimal.container_was_started


def test_a_folder_of_helpers_that_is_missing_is_refused(minimal: Stage) -> None:
    (minimal.root / "helpers").rename(minimal.root / "elsewhere")
    assert minimal.refused() == "the sealing helpers are missing"
    assert not minimal.container_was_started


# --- the node ---


def test_a_node_without_namespaces_is_the_sites_to_put_right(minimal: Stage) -> None:
    minimal.stub("unshare", "exit 1")
    assert minimal.refused() == "this node gives no user and mount namespace"
    assert not minimal.container_was_started


def test_a_node_that_mounts_nothing_is_the_sites_to_put_right(minimal: Stage) -> None:
    minimal.stub("mount", "echo 'mount: permission denied' >&2; exit 32")
    assert minimal.refused() == "the container could not be prepared"
    assert not minimal.container_was_started
    assert "mount: permission denied" in minimal.log.read_text()


def test_a_context_that_is_not_whole_is_the_sites_to_put_right(minimal: Stage) -> None:
    (minimal.context / "environment.list").unlink()
    assert minimal.refused() == "the container could not be prepared"
    assert not minimal.container_was_started


# --- TERM, as at a cancel or the time limit ---

READY = "complained"
IGNORES = "trap 'echo program >>\"$out/term\"' TERM\nwhile :; do sleep 0.02; done\n"
SHORTER = ("tenths < 100", "tenths < 3")


def ended_by_term(stage: Stage) -> float:
    """Start it, send TERM once its program runs, and wait for its end: how long that took."""
    child = stage.start()
    try:
        assert soon(lambda: stage.left("stderr.txt") == READY)
        began = time.monotonic()
        child.terminate()
        assert awaited(child, 10) == 143
        took = time.monotonic() - began
        assert stage.left("exit_code") == "143"
        assert stage.left("stdout.txt") == "printed"
        assert soon(lambda: not running_below(stage.context))
    finally:
        end_group(child)
    return took


@each_way
def test_term_ends_the_program_at_once(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    stage.replace(WEIGHED_OFTEN)
    stage.program("exec sleep 60")
    assert ended_by_term(stage) < 5
    assert stage.left("refused") is None


@each_way
def test_term_goes_to_the_program_and_not_to_what_launched_it(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    stage.replace(WEIGHED_OFTEN)
    stage.program(
        "trap 'echo program >>\"$out/term\"; echo its last words >>$out/output/a; exit 0' TERM\n"
        "while :; do sleep 0.02; done\n"
    )
    ended_by_term(stage)
    assert (stage.out / "term").read_text() == "program\n"
    assert stage.left("output/a") == "its last words"


@each_way
def test_a_program_that_ignores_term_is_killed(golden: Path, tmp_path: Path) -> None:
    stage = staged(golden, tmp_path)
    stage.replace(WEIGHED_OFTEN, SHORTER)
    stage.program(IGNORES)
    assert 0.2 < ended_by_term(stage) < 5
    assert (stage.out / "term").read_text() == "program\n"


@each_way
def test_term_before_the_gate_ends_the_container_and_no_program_starts(
    golden: Path, tmp_path: Path
) -> None:
    stage = staged(golden, tmp_path)
    stage.before("exec sleep 60")
    child = stage.start()
    try:
        assert soon((stage.out / "pid").exists)
        child.terminate()
        assert awaited(child, 10) == 143
        assert stage.left("exit_code") == "143"
        assert not stage.program_was_started
        assert stage.left("attested") is None
        assert soon(lambda: not running_below(stage.context))
    finally:
        end_group(child)


# --- the signal that Slurm sends some time before the time limit ---

WARNED = (
    'trap \'echo warned >>"$out/usr2"; [[ $(wc -l <"$out/usr2") != 2 ]] || exit 4\' USR2\n'
    'touch "$out/armed"\n'
    "while :; do sleep 0.02; done\n"
)


def test_a_warning_goes_to_the_program_and_ends_nothing(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "full.toml", tmp_path)
    stage.program(WARNED)
    child = stage.start()
    lines = stage.out / "usr2"
    try:
        assert soon((stage.context / "inner").exists)
        assert soon((stage.out / "armed").exists)
        child.send_signal(signal.SIGUSR2)
        assert soon(lambda: lines.exists() and lines.read_text() == "warned\n")
        assert child.poll() is None
        child.send_signal(signal.SIGUSR2)
        assert awaited(child, 10) == 4
        assert stage.left("exit_code") == "4"
        assert not (stage.context / "inner").exists()
    finally:
        end_group(child)


def test_a_warning_before_the_program_runs_is_dropped(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "full.toml", tmp_path)
    stage.before('until [[ -e "$out/go" ]]; do sleep 0.02; done')
    stage.program("exit 0")
    child = stage.start()
    try:
        assert soon((stage.out / "pid").exists)
        child.send_signal(signal.SIGUSR2)
        (stage.out / "go").touch()
        assert awaited(child, 10) == 0
    finally:
        end_group(child)


def test_a_program_that_handles_no_warning_is_ended_by_it(tmp_path: Path) -> None:
    stage = staged(GOLDEN / "full.toml", tmp_path)
    stage.program("exec sleep 60")
    child = stage.start()
    try:
        assert soon((stage.context / "inner").exists)
        child.send_signal(signal.SIGUSR2)
        assert awaited(child, 10) == 128 + signal.SIGUSR2
        assert stage.left("refused") is None
    finally:
        end_group(child)
