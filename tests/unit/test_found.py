"""What the simulation has found: each bug without the coincidences that it took."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.standing import Actor
from slurmbridge.clock import Clock
from slurmbridge.context.carrying import FolderPlace
from slurmbridge.context.folder import ContextFolder
from slurmbridge.errors import DatabaseUnavailable, FilesUnavailable, StagingFailed
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.scheduler import Submission
from tests.support.builders import RETRY, Bridge, end


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path)


def last_told(bridge: Bridge, wanted: str) -> ProcessState:
    return bridge.events(wanted)[-1].state


def test_a_state_never_differs_from_what_the_last_event_says(bridge: Bridge) -> None:
    (bridge.root / "data/input").write_text("input")
    one = bridge.submit(inputs=[{"source": "data:input"}])
    seen: list[tuple[ProcessState, ProcessState]] = []
    bridge.processes.after = lambda: seen.append((bridge.state(one), last_told(bridge, one)))
    (bridge.root / "data/input").rename(bridge.root / "data/away")
    (bridge.root / "data").rename(bridge.root / "hidden")
    for _ in range(2):
        bridge.verbs.dispatcher.dispatch()
        bridge.advance(RETRY)
    (bridge.root / "hidden").rename(bridge.root / "data")
    (bridge.root / "data/away").rename(bridge.root / "data/input")
    bridge.verbs.dispatcher.dispatch()
    assert bridge.get(one).job_id is not None
    assert [state for state, _ in seen] == [told for _, told in seen]


def test_a_database_that_is_away_is_no_mistake_of_the_bridge(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    end(bridge, one)
    bridge.verbs.observer.observe()
    before = bridge.events(one)

    def away(*_: object, **__: object) -> bool:
        raise DatabaseUnavailable("the database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(bridge.processes, "holds", away)
        with pytest.raises(DatabaseUnavailable):
            bridge.verbs.collector.collect()
    assert bridge.events(one) == before
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_files_that_go_away_once_more_are_no_mistake_of_the_bridge(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    end(bridge, one)
    bridge.verbs.observer.observe()

    def full(*_: object) -> Any:
        raise StagingFailed("outputs could not be carried: No space left on device")

    def away(_self: ContextFolder) -> bool:
        raise FilesUnavailable("the files cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr("slurmbridge.bridge.collect.carry_out", full)
        patched.setattr(ContextFolder, "exists", away)
        bridge.verbs.collector.collect()
    assert "No space left" in (bridge.get(one).reason or "")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    bridge.advance(RETRY)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_the_end_of_another_job_with_the_same_id_is_not_taken(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.slurm.reset()
    other = bridge.submitted()
    assert bridge.get(one).job_id == bridge.get(other).job_id == 1
    bridge.start(other)
    end(bridge, other, SlurmState.PREEMPTED, None)
    bridge.slurm.forget(1)
    bridge.look()
    assert bridge.state(other) is ProcessState.PREEMPTED
    assert bridge.state(one) is ProcessState.QUEUED


def test_a_lost_job_that_shall_end_does_not_take_another_with_it(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.slurm.reset()
    other = bridge.submitted()
    bridge.start(other)
    bridge.desk.cancel(one, by="tester")
    bridge.look()
    assert "cancel" not in bridge.slurm.calls
    assert bridge.state(other) is ProcessState.RUNNING


def test_a_second_job_is_ended_by_no_id_that_is_not_its_own(bridge: Bridge) -> None:
    one = bridge.submitted()
    script = bridge.job(one).script
    bridge.slurm.reset()
    other = bridge.submitted()
    [second] = bridge.slurm.submit([Submission(bridge.get(one).job_name, script)])
    (bridge.context(one) / "claim").symlink_to(str(second))
    bridge.verbs.observer.observe()
    assert bridge.get(one).job_id == second
    assert not bridge.job(other).ended


@contextmanager
def struck_while_slurm_answers(bridge: Bridge) -> Iterator[None]:
    """The Runner stands still after it has looked, and is taken for dead."""
    jobs = bridge.slurm.jobs

    def look() -> list[Any]:
        found = jobs()
        bridge.strike("runner-1")
        return found

    bridge.slurm.jobs = look  # type: ignore[method-assign]
    yield
    bridge.slurm.jobs = jobs  # type: ignore[method-assign]


def test_what_a_struck_off_runner_has_seen_is_not_written(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    before = bridge.events(one)
    with struck_while_slurm_answers(bridge):
        bridge.verbs.observer.observe()
    assert bridge.events(one) == before
    assert bridge.state(one) is ProcessState.QUEUED
    clock = Clock(bridge.clock, bridge.monotonic, lambda _: None)
    assert isinstance(bridge.actor("runner-2"), Actor)
    bridge.verbs_of(Actor("runner-2", clock)).observer.observe()
    assert bridge.state(one) is ProcessState.RUNNING


def test_a_canceled_job_that_a_struck_off_runner_asked_for_is_told_by_the_next(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.verbs.observer.observe()
    bridge.desk.cancel(one, by="tester")
    bridge.advance(timedelta(seconds=1))
    with struck_while_slurm_answers(bridge):
        bridge.verbs.observer.observe()
    assert last_told(bridge, one) is not ProcessState.CANCELING


def test_who_stood_still_while_publishing_takes_nothing_from_who_came_after(
    tmp_path: Path,
) -> None:
    target = tmp_path / "results"

    def begun(by: str) -> FolderPlace:
        place = FolderPlace("results:p", target)
        with place.begin().create("result") as file:
            file.write(by.encode())
        return place

    begun("the first, which died before it was recorded").publish()
    late = begun("late")
    begun("the next").publish()
    with pytest.raises(FileNotFoundError):
        late.publish()
    late.abandon()
    assert (target / "result").read_text() == "the next"
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "result"]
