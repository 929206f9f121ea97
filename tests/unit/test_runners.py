"""Several Runners, and one that goes on after it has lost: holds, stale looks, second jobs."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from slurmbridge.bridge import dispatch
from slurmbridge.bridge.collect import MISSING_CONTEXT_KEPT
from slurmbridge.bridge.logs import PIECE_BYTES
from slurmbridge.context.carrying import MANIFEST
from slurmbridge.context.folder import ContextFolder
from slurmbridge.errors import SchedulerUnavailable
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, SlurmState
from slurmbridge.scheduler import JobReport, Submission
from slurmbridge.store import LogStore
from tests.support.builders import (
    ABSENCE,
    RETRY,
    Bridge,
    Listed,
    crash_before_record,
    crash_before_submission,
    end,
)

SECOND = timedelta(seconds=1)


def held(bridge: Bridge, wanted: str, runner: str) -> bool:
    return bridge.processes.holds(wanted, runner=runner)


def claim(bridge: Bridge, phase: Phase, runner: str) -> list[str]:
    bridge.actor(runner)
    claimed = bridge.processes.claim(phase, runner=runner, limit=10, now=bridge.clock())
    return [entry.id for entry in claimed]


def collected_elsewhere(bridge: Bridge) -> None:
    """Another Runner collects, in a thread of its own as SQLite's connections want it."""
    thread = threading.Thread(target=bridge.new_verbs("runner-2").collector.collect)
    thread.start()
    thread.join()


def results(bridge: Bridge, wanted: str) -> dict[str, str]:
    """Everything in the store beside and below the results of a Process, but trace reports and
    manifests.
    """
    root = bridge.root / "results"
    return {
        str(path.relative_to(root / "processes")): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(("trace-report.", MANIFEST))
    }


def details(bridge: Bridge, wanted: str) -> list[str]:
    return [event.detail for event in bridge.events(wanted)]


def waiting_for_collection(bridge: Bridge, **files: str) -> str:
    """A Process whose job has ended and has been seen to, with these files in /output."""
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {f"output/{name}": text for name, text in files.items()})
    end(bridge, one)
    bridge.verbs.observer.observe()
    return one


# --- stale looks ---


def look_late(bridge: Bridge, meanwhile: Callable[[], object]) -> None:
    """One Runner's look, in the midst of which others act: its rows are old when Slurm answers."""
    ask = bridge.slurm.jobs
    answered = False

    def jobs() -> list[JobReport]:
        nonlocal answered
        reports = ask()
        if not answered:
            answered = True
            meanwhile()
        return reports

    bridge.slurm.jobs = jobs  # type: ignore[method-assign]
    bridge.new_verbs("runner-2").observer.observe()
    bridge.slurm.jobs = ask  # type: ignore[method-assign]


def test_a_stale_look_neither_steals_nor_clears_the_claim_of_a_collector(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    end(bridge, one)

    def meanwhile() -> None:
        bridge.verbs.observer.observe()
        assert claim(bridge, Phase.COLLECTING, "runner-1") == [one]

    look_late(bridge, meanwhile)
    assert held(bridge, one, "runner-1")
    assert claim(bridge, Phase.COLLECTING, "runner-2") == []
    assert details(bridge, one).count("job 1 ended: COMPLETED") == 1


def test_a_stale_look_does_not_bring_back_what_was_collected(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    end(bridge, one)
    look_late(bridge, bridge.look)
    assert bridge.state(one) is ProcessState.COMPLETE
    assert claim(bridge, Phase.COLLECTING, "runner-2") == []


def test_of_two_collectors_the_second_finds_nothing(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="a")
    seen: list[int] = []
    stores = Listed(bridge.stores)
    stores.before = lambda: seen.append(bridge.new_verbs("runner-2").collector.collect())
    assert bridge.new_verbs("runner-1", stores=stores).collector.collect() == 1
    assert seen == [0]
    assert bridge.state(one) is ProcessState.COMPLETE


# --- a collector that lost its hold ---


def test_a_collector_that_lost_to_one_that_finished_changes_no_result(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="good")
    stores = Listed(bridge.stores)

    def take_over() -> None:
        bridge.strike()
        collected_elsewhere(bridge)
        assert bridge.state(one) is ProcessState.COMPLETE

    stores.before = take_over
    bridge.new_verbs("runner-1", stores=stores).collector.collect()
    assert results(bridge, one) == {f"{one}/output/a": "good"}
    assert (bridge.state(one), bridge.get(one).reason) == (ProcessState.COMPLETE, None)


def test_a_collector_that_lost_its_hold_leaves_everything_to_the_other(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="what the late one would carry")
    good = bridge.root / f"results/processes/{one}/output/a"
    stores = Listed(bridge.stores)

    def take_over() -> None:
        bridge.strike()
        assert claim(bridge, Phase.COLLECTING, "runner-2") == [one]
        good.parent.mkdir(parents=True)
        good.write_text("what the other has carried")

    stores.before = take_over
    bridge.new_verbs("runner-1", stores=stores).collector.collect()
    assert results(bridge, one) == {f"{one}/output/a": "what the other has carried"}
    assert [path.name for path in good.parents[2].iterdir()] == [one]
    assert bridge.context(one).exists()
    assert held(bridge, one, "runner-2")
    assert bridge.state(one) not in FINAL_STATES


# --- a context that is missing ---


def test_a_missing_context_ends_nothing_and_overwrites_nothing(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="a")
    # An earlier attempt carried the results and died before it was recorded.
    carried = bridge.root / f"results/processes/{one}/output/a"
    carried.parent.mkdir(parents=True)
    carried.write_text("a")
    bridge.contexts.rename(bridge.root / "elsewhere")
    for _ in range(3):
        bridge.verbs.collector.collect()
        assert bridge.state(one) not in FINAL_STATES
        assert bridge.get(one).reason == "its context is missing"
        assert results(bridge, one) == {f"{one}/output/a": "a"}
        bridge.advance(RETRY)
    assert details(bridge, one).count("its context is missing") == 1
    (bridge.root / "elsewhere").rename(bridge.contexts)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert results(bridge, one) == {f"{one}/output/a": "a"}


def test_a_context_that_stays_missing_is_given_up_after_a_day(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="a")
    bridge.context(one).rename(bridge.root / "elsewhere")
    bridge.advance(MISSING_CONTEXT_KEPT - SECOND)
    bridge.look()
    assert bridge.state(one) not in FINAL_STATES
    bridge.advance(RETRY)
    bridge.look()
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR
    assert "its context has been missing for 1 day" in str(bridge.get(one).reason)
    assert results(bridge, one) == {}


def test_contexts_that_are_away_keep_processes_waiting_and_end_none(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.contexts.rename(bridge.root / "elsewhere")
    for _ in range(3):
        bridge.verbs.dispatcher.dispatch()
        assert bridge.state(one) is ProcessState.QUEUED
        assert "the context cannot be made" in str(bridge.get(one).reason)
        bridge.advance(RETRY)
    assert len([text for text in details(bridge, one) if "cannot be made" in text]) == 1
    (bridge.root / "elsewhere").rename(bridge.contexts)
    bridge.verbs.dispatcher.dispatch()
    assert (bridge.jobs_of(one), bridge.get(one).reason) == ([1], None)


# --- two jobs for one Process ---


def second_job(bridge: Bridge, wanted: str) -> int:
    process = bridge.get(wanted)
    script = bridge.desk.script(wanted)
    assert script is not None
    [job_id] = bridge.slurm.submit([Submission(process.job_name, script)])
    assert isinstance(job_id, int)
    return job_id


def test_the_end_of_a_job_that_did_nothing_is_not_the_end_of_the_process(bridge: Bridge) -> None:
    one = bridge.submitted()
    taker = second_job(bridge, one)
    (bridge.context(one) / "claim").symlink_to(str(taker))
    bridge.slurm.start(taker)
    bridge.slurm.end(1, SlurmState.FAILED, 75)
    bridge.look()
    assert bridge.state(one) not in FINAL_STATES
    assert bridge.get(one).job_id == taker
    assert bridge.context(one).exists()
    assert "the context belongs to job 2" in details(bridge, one)[-1]
    bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    bridge.leave(one, {"exit_code": "0\n", "output/a": "a"})
    bridge.attest(one)
    bridge.slurm.end(taker, SlurmState.COMPLETED, 0)
    bridge.look()
    assert (bridge.state(one), bridge.get(one).exit_code) == (ProcessState.COMPLETE, 0)
    assert results(bridge, one) == {f"{one}/output/a": "a"}


def test_a_job_that_took_the_context_is_adopted_though_slurm_does_not_name_it(
    bridge: Bridge,
) -> None:
    one = crash_before_submission(bridge)
    (bridge.context(one) / "claim").symlink_to("7")
    bridge.verbs.recoverer.recover()
    assert (bridge.get(one).job_id, bridge.state(one)) == (7, ProcessState.QUEUED)
    assert details(bridge, one)[-1] == "its context was taken by job 7"
    bridge.advance(10 * ABSENCE)
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == []


def test_a_job_that_was_just_adopted_is_not_absent_since_the_search_began(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    bridge.verbs.recoverer.recover()
    bridge.advance(ABSENCE - SECOND)
    (bridge.context(one) / "claim").symlink_to("7")
    bridge.verbs.recoverer.recover()
    assert bridge.get(one).job_id == 7
    bridge.advance(SECOND)
    bridge.verbs.observer.observe()
    assert claim(bridge, Phase.COLLECTING, "runner-2") == []


def test_a_job_that_appears_after_its_absence_was_proven_is_adopted(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    bridge.verbs.recoverer.recover()
    bridge.advance(ABSENCE)
    bridge.verbs.recoverer.recover()
    (bridge.context(one) / "claim").symlink_to("7")
    for _ in range(5):
        bridge.verbs.dispatcher.dispatch()
        bridge.verbs.recoverer.recover()
        bridge.advance(RETRY)
    assert bridge.get(one).job_id == 7


def test_what_one_context_holds_does_not_keep_others_in_doubt(bridge: Bridge) -> None:
    one, two = crash_before_submission(bridge), crash_before_submission(bridge)
    (bridge.context(one) / "exit_code").mkdir()
    for wait in (SECOND, ABSENCE + SECOND):
        bridge.advance(wait)
        bridge.verbs.recoverer.recover()
    bridge.verbs.dispatcher.dispatch()
    assert len(bridge.jobs_of(two)) == 1


# --- letting go ---


def test_what_is_worked_on_stays_held(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="a")
    found: list[bool] = []
    stores = Listed(bridge.stores)
    stores.before = lambda: found.append(held(bridge, one, "runner-1"))
    bridge.new_verbs("runner-1", stores=stores).collector.collect()
    assert found == [True]
    assert bridge.state(one) is ProcessState.COMPLETE


def test_what_a_dispatch_left_when_it_raised_is_free(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    assert not held(bridge, one, "runner-1")


def test_what_a_search_left_when_it_raised_is_free(bridge: Bridge) -> None:
    one = crash_before_record(bridge)
    bridge.slurm.silent = True
    with pytest.raises(SchedulerUnavailable):
        bridge.verbs.recoverer.recover()
    assert not held(bridge, one, "runner-1")


def test_what_a_collector_left_when_it_raised_is_free(bridge: Bridge) -> None:
    one = waiting_for_collection(bridge, a="a")
    works = bridge.processes.apply

    def broken(*_: Any, **__: Any) -> frozenset[str]:
        assert held(bridge, one, "runner-1")
        raise RuntimeError("the database is full")

    bridge.processes.apply = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        bridge.verbs.collector.collect()
    bridge.processes.apply = works  # type: ignore[method-assign]
    assert not held(bridge, one, "runner-1")
    bridge.new_verbs("runner-2").collector.collect()
    assert bridge.state(one) is ProcessState.COMPLETE


# --- bounds ---


def test_a_dispatch_ends_although_more_keeps_arriving(bridge: Bridge) -> None:
    for _ in range(3):
        bridge.submit()
    verbs = bridge.new_verbs("runner-1", batch=1)

    def two_more(_: object) -> None:
        assert bridge.slurm.calls.count("submit") < 50, "it goes on for ever"
        bridge.submit()
        bridge.submit()

    bridge.slurm.before = two_more
    assert verbs.dispatcher.dispatch() == dispatch.BATCHES
    assert bridge.slurm.calls.count("submit") == dispatch.BATCHES
    assert verbs.dispatcher.dispatch() == dispatch.BATCHES


def test_a_destination_that_leads_through_a_file_ends_a_process_before_anything_runs(
    bridge: Bridge,
) -> None:
    (bridge.root / "results/file").write_text("in the way")
    ids = [
        bridge.submit(outputs={"destination": f"results:{path}"})
        for path in ("file", "file/below", "file/far/below", "folder/file")
    ]
    bridge.verbs.dispatcher.dispatch()
    for one in ids[:3]:
        assert bridge.state(one) is ProcessState.EXECUTOR_ERROR
        assert "leads through a file" in str(bridge.get(one).reason)
        assert bridge.jobs_of(one) == []
        assert not bridge.context(one).exists()
    assert bridge.get(ids[3]).job_id == 1
    assert (bridge.root / "results/file").read_text() == "in the way"


# --- logs ---


def printing(bridge: Bridge) -> str:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    return one


def test_a_log_is_brought_by_pieces_while_it_grows_and_whole_at_the_end(bridge: Bridge) -> None:
    one = printing(bridge)
    keeper = bridge.log_keeper(1 << 20)
    whole = bytes(range(256)) * 1000
    bridge.leave(one, {"stdout.txt": whole, "stderr.txt": whole})
    for looks in (1, 2):
        keeper.keep([one])
        sizes = LogStore(bridge.database).sizes([one])
        assert sizes == {(one, name): looks * PIECE_BYTES for name in ("stdout", "stderr")}
    keeper.finish(one)
    for stream in ("stdout", "stderr"):
        assert LogStore(bridge.database).read(one, stream, offset=0, limit=1 << 20) == whole


def test_logs_for_which_there_is_no_time_come_first_the_next_time(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [printing(bridge) for _ in range(5)]
    for one in ids:
        bridge.leave(one, {"stdout.txt": "printed"})
    read = ContextFolder.read_log

    def slowly(folder: ContextFolder, stream: str, offset: int, limit: int) -> bytes:
        bridge.advance(timedelta(seconds=0.2))
        return read(folder, stream, offset, limit)

    monkeypatch.setattr(ContextFolder, "read_log", slowly)
    keeper = bridge.log_keeper(64)
    kept = []
    for _ in range(3):
        keeper.keep(ids)
        kept.append([bridge.desk.log(one, "stdout") for one in ids].count(b"printed"))
    # Three streams each, so two Processes take 1.2 s.
    assert kept == [2, 4, 5]


def test_a_log_that_cannot_be_read_keeps_no_other_log_back(bridge: Bridge) -> None:
    bad, good = printing(bridge), printing(bridge)
    (bridge.context(bad) / "stdout.txt").mkdir()
    bridge.leave(bad, {"stderr.txt": "said"})
    bridge.leave(good, {"stdout.txt": "printed"})
    bridge.verbs.logs.keep([bad, good])
    assert bridge.desk.log(good, "stdout") == b"printed"
    assert (bridge.desk.log(bad, "stdout"), bridge.desk.log(bad, "stderr")) == (b"", b"said")


def test_a_log_that_cannot_be_read_does_not_stop_a_runner(bridge: Bridge) -> None:
    bad, other = printing(bridge), printing(bridge)
    (bridge.context(bad) / "stdout.txt").mkdir()
    runner = bridge.runner()
    runner.step()
    end(bridge, other)
    runner.step()
    assert bridge.state(other) is ProcessState.COMPLETE
    assert bridge.state(bad) is ProcessState.RUNNING


@pytest.mark.parametrize("name", ["stdout.txt", "stderr.txt", "job.log", "trace.zst"])
def test_a_log_that_is_a_folder_keeps_no_process_from_its_end(bridge: Bridge, name: str) -> None:
    one = printing(bridge)
    (bridge.context(one) / name).mkdir()
    bridge.leave(one, {"output/a": "a"})
    end(bridge, one)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert results(bridge, one) == {f"{one}/output/a": "a"}


# --- mistakes ---


def test_a_mistake_in_one_verb_ends_neither_the_runner_nor_its_other_verbs(
    bridge: Bridge, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = printing(bridge)
    runner = bridge.runner()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    for verb, method in (("collector", "collect"), ("logs", "keep"), ("recoverer", "recover")):
        monkeypatch.setattr(getattr(runner.verbs, verb), method, broken)
    waiting = bridge.submit()
    assert runner.step() > 0
    assert bridge.get(waiting).job_id == 2
    assert bridge.state(one) is ProcessState.RUNNING
    for what in ("collect", "keep logs", "recover"):
        assert f"could not {what}, by a mistake of the bridge" in caplog.text
