"""The way of a Process, with a Slurm in memory: from a submission to what is kept of it."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from slurmbridge.errors import InvalidProcess, SubmissionRefused, UnknownProcess
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState
from slurmbridge.model import Image
from slurmbridge.scheduler import Submission
from slurmbridge.store import ImageStore, Roster
from tests.support.builders import RETRY, Bridge, Listed, end, states
from tests.support.specs import CAPABILITY, IMAGE, START

SECOND = timedelta(seconds=1)


# --- the plain way ---


def test_a_process_goes_from_accepted_to_complete_with_its_outputs(bridge: Bridge) -> None:
    (bridge.root / "data/in.csv").write_text("1,2")
    one = bridge.submit(inputs=[{"source": "data:in.csv"}], outputs={"destination": "results:mine"})
    assert bridge.state(one) is ProcessState.QUEUED
    bridge.verbs.dispatcher.dispatch()
    assert (bridge.context(one) / "input/in.csv").read_text() == "1,2"
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED
    bridge.start(one)
    bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    bridge.leave(one, {"output/a/out.csv": "3", "stdout.txt": "hello"})
    bridge.advance(SECOND)
    end(bridge, one)
    bridge.look()

    process = bridge.get(one)
    assert (process.state, process.exit_code, process.reason) == (ProcessState.COMPLETE, 0, None)
    assert process.outputs_location == f"results:mine/{one}"
    reports = {"trace-report.json", "trace-report.html"}
    assert {file.path for file in process.outputs} == {"output/a/out.csv", "stdout.txt", *reports}
    assert (bridge.root / f"results/mine/{one}/output/a/out.csv").read_text() == "3"
    assert bridge.desk.log(one, "stdout") == b"hello"
    assert (process.started_at, process.ended_at) == (START, START + SECOND)
    assert not bridge.context(one).exists()
    assert states(bridge.events(one)) == [
        "QUEUED", "INITIALIZING", "QUEUED", "RUNNING", "COMPLETE",
    ]  # fmt: skip


def test_without_a_destination_of_its_own_the_sites_is_taken(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.look()
    assert bridge.get(one).outputs_location == f"results:processes/{one}"
    assert (bridge.root / f"results/processes/{one}").is_dir()


def test_the_intent_is_durable_before_slurm_is_asked(bridge: Bridge) -> None:
    seen: list[tuple[bool, str]] = []

    def look(submissions: Sequence[Submission]) -> None:
        for entry in submissions:
            wanted = entry.job_name.removeprefix("sb-")
            kept = bridge.desk.script(wanted) == entry.script
            seen.append((kept, bridge.events(wanted)[-1].detail))

    bridge.slurm.before = look
    one = bridge.submitted()
    assert seen == [(True, f"context prepared; about to be submitted as sb-{one}")]


def test_the_script_that_is_kept_is_the_one_that_slurm_has(bridge: Bridge) -> None:
    one = bridge.submitted()
    assert bridge.desk.script(one) == bridge.job(one).script
    assert bridge.get(one).script_sha256 is not None


def test_a_whole_backlog_is_submitted_in_batches_each_once(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(7)]
    verbs = bridge.new_verbs("runner-2", batch=3)
    assert verbs.dispatcher.dispatch() == 7
    assert bridge.slurm.calls.count("submit") == 3
    assert [len(bridge.jobs_of(one)) for one in ids] == [1] * 7


def test_a_job_that_ran_between_two_looks_has_run(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    end(bridge, one)
    bridge.look()
    assert states(bridge.events(one))[-2:] == ["RUNNING", "COMPLETE"]


# --- what cannot be submitted ---


def test_what_slurm_refuses_ends_with_slurms_words_and_without_a_context(bridge: Bridge) -> None:
    bridge.slurm._capability = CAPABILITY.model_copy(update={"accounts": ()})
    one = bridge.submit(account="research")
    two = bridge.submit()
    bridge.verbs.dispatcher.dispatch()
    process = bridge.get(one)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert "Invalid account or account/partition combination" in str(process.reason)
    assert process.ended_at == START
    assert not bridge.context(one).exists()
    assert bridge.get(two).job_id == 1


def test_at_a_limit_a_process_waits_and_is_submitted_later(bridge: Bridge) -> None:
    bridge.slurm.answer = SubmissionRefused("QOSMaxSubmitJobPerUserLimit", retry=True)
    one = bridge.submit()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.QUEUED
    assert bridge.get(one).reason == "QOSMaxSubmitJobPerUserLimit"
    bridge.slurm.answer = None
    bridge.verbs.dispatcher.dispatch()
    assert bridge.get(one).job_id is None
    bridge.advance(RETRY)
    bridge.verbs.dispatcher.dispatch()
    assert (bridge.get(one).job_id, bridge.get(one).reason) == (1, None)


@pytest.mark.parametrize(
    "inputs",
    [
        [{"source": "data:missing"}],
        [{"source": "data:link"}],
        [{"source": "data:pipe"}],
        [{"source": "data:large"}],
    ],
    ids=lambda inputs: str(inputs[0]["source"]),
)
def test_inputs_that_cannot_be_staged_end_only_their_own_process(
    bridge: Bridge, inputs: Any
) -> None:
    data = bridge.root / "data"
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    (data / "large").write_bytes(b"x" * ((1 << 20) + 1))
    one, two = bridge.submit(inputs=inputs), bridge.submit()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.EXECUTOR_ERROR
    assert str(inputs[0]["source"]) in str(bridge.get(one).reason)
    assert not bridge.context(one).exists()
    assert bridge.jobs_of(one) == []
    assert bridge.get(two).job_id == 1


def test_a_store_that_stays_away_is_told_once(bridge: Bridge) -> None:
    (bridge.root / "data").rmdir()
    one = bridge.submit(inputs=[{"source": "data:a"}])
    for _ in range(3):
        bridge.verbs.dispatcher.dispatch()
        bridge.advance(RETRY)
    assert bridge.state(one) is ProcessState.QUEUED
    assert states(bridge.events(one)) == ["QUEUED", "INITIALIZING", "QUEUED"]


def test_an_image_that_is_not_recorded_any_more_ends_the_process(bridge: Bridge) -> None:
    one = bridge.submit()
    with bridge.database.write() as connection:
        connection.execute(text("delete from image"))
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.EXECUTOR_ERROR
    assert "no image named 'python' is recorded any more" in str(bridge.get(one).reason)


def test_a_revoked_image_starts_nothing_although_an_older_one_of_its_name_is_there(
    bridge: Bridge,
) -> None:
    images = ImageStore(bridge.database)
    newer = IMAGE.model_copy(update={"sha256": "3" * 64, "built_at": START + timedelta(days=1)})
    images.record(newer)
    one = bridge.submit()
    images.revoke("3" * 64, by="carol", reason="it holds a key", now=START + timedelta(days=2))
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR
    said = "the image 'python' was revoked at 2026-03-06 05:06:07+00:00: it holds a key"
    assert bridge.get(one).reason == said
    assert bridge.jobs_of(one) == []
    assert not bridge.context(one).exists()
    with pytest.raises(InvalidProcess) as caught:
        bridge.submit()
    assert caught.value.fields == (("image", said),)
    assert [image.runs for image in bridge.desk.images()] == [False, False]


ADDED = IMAGE.model_copy(update={"definition_sha256": None, "added_by": "carol"})


@pytest.mark.parametrize(
    ("image", "starts"),
    [(IMAGE, True), (ADDED, False), (ADDED.model_copy(update={"signed": True}), True)],
    ids=["built here", "added", "added and signed"],
)
def test_where_signatures_are_required_only_what_is_signed_or_built_here_starts(
    bridge: Bridge, image: Image, starts: bool
) -> None:
    ImageStore(bridge.database).record(image)
    one = bridge.submit()
    dispatcher = bridge.verbs.dispatcher
    dispatcher._rules = replace(dispatcher._rules, signature_required=True)
    dispatcher.dispatch()
    assert (bridge.get(one).job_id is not None) is starts
    if not starts:
        assert bridge.state(one) is ProcessState.SYSTEM_ERROR
        assert "is not signed, as this site requires" in str(bridge.get(one).reason)


def test_a_store_that_left_the_configuration_keeps_back_only_those_that_need_it(
    bridge: Bridge,
) -> None:
    (bridge.root / "data/a").touch()
    one, two = bridge.submit(inputs=[{"source": "data:a"}]), bridge.submit()
    results = {"results": bridge.root / "results"}
    bridge.new_verbs("runner-2", stores=results).dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.QUEUED
    assert "the folder of the store data is missing" in str(bridge.get(one).reason)
    assert (bridge.jobs_of(one), bridge.get(two).job_id) == ([], 1)
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == []
    bridge.advance(RETRY)
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [2]


def test_a_store_that_left_the_configuration_keeps_outputs_until_it_is_back(bridge: Bridge) -> None:
    one, two = bridge.submitted(), bridge.submitted()
    for each in (one, two):
        end(bridge, each)
    bridge.verbs.observer.observe()
    bridge.new_verbs("runner-2", stores={}).collector.collect()
    assert bridge.state(one) not in FINAL_STATES
    assert bridge.get(one).reason == "the store results is not configured any more"
    assert bridge.context(one).exists()
    bridge.advance(RETRY)
    bridge.look()
    assert [bridge.state(each) for each in (one, two)] == [ProcessState.COMPLETE] * 2


# --- how often, how much ---


@pytest.mark.parametrize("number", [1, 20])
def test_a_cycle_asks_slurm_once_whatever_the_number_of_processes(
    bridge: Bridge, number: int
) -> None:
    for _ in range(number):
        bridge.submit()
    bridge.verbs.dispatcher.dispatch()
    bridge.slurm.calls.clear()
    bridge.look()
    assert bridge.slurm.calls == ["jobs"]


def test_missing_jobs_are_asked_for_in_one_query_too(bridge: Bridge) -> None:
    ids = [bridge.submitted() for _ in range(5)]
    for number in range(5):
        bridge.slurm.forget(number + 1)
    bridge.slurm.calls.clear()
    bridge.verbs.observer.observe()
    assert bridge.slurm.calls == ["jobs", "history", "backlog"]
    assert {bridge.state(one) for one in ids} == {ProcessState.QUEUED}


def test_what_has_not_changed_is_not_written(bridge: Bridge) -> None:
    ids = [bridge.submitted() for _ in range(3)]
    bridge.start(ids[0])
    bridge.look()
    before = [bridge.events(one) for one in ids]
    for _ in range(5):
        bridge.advance(SECOND)
        bridge.look()
    assert [bridge.events(one) for one in ids] == before


def test_a_new_reason_of_slurm_is_one_event(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.look()
    before = len(bridge.events(one))
    job = bridge.job(one)
    job.report = replace(job.report, reason="Resources")
    bridge.look()
    bridge.look()
    assert len(bridge.events(one)) == before + 1
    assert bridge.get(one).slurm_reason == "Resources"


# --- several Runners ---


def test_of_two_runners_only_one_submits(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(4)]
    bridge.new_verbs("runner-2", batch=2).dispatcher.dispatch()
    bridge.verbs.dispatcher.dispatch()
    assert [len(bridge.jobs_of(one)) for one in ids] == [1] * 4


def test_a_runner_that_has_lost_its_lease_leaves_the_others_context_alone(bridge: Bridge) -> None:
    (bridge.root / "data/a").write_text("a")
    one = bridge.submit(inputs=[{"source": "data:a"}])
    other = bridge.new_verbs("runner-2")

    def take_over() -> None:
        bridge.strike()
        thread = threading.Thread(target=other.dispatcher.dispatch)
        thread.start()
        thread.join()
        assert bridge.get(one).job_id == 1

    stores = Listed(bridge.stores)
    stores.before = take_over
    bridge.new_verbs("runner-1", stores=stores).dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]
    assert (bridge.context(one) / "input/a").exists()


def test_a_move_that_another_made_first_takes_no_context(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.verbs.observer.observe()
    bridge.actor("runner-2")
    claimed = bridge.processes.claim(Phase.COLLECTING, runner="runner-2", limit=1, now=START)
    assert [entry.id for entry in claimed] == [one]
    assert bridge.verbs.collector.collect() == 0
    assert bridge.context(one).exists()


# --- logs ---


def test_what_a_running_program_prints_can_be_read(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    runner = bridge.runner()
    runner.step()
    bridge.leave(one, {"stdout.txt": "one\n"})
    runner.step()
    assert bridge.desk.log(one, "stdout") == b"one\n"
    bridge.leave(one, {"stdout.txt": "one\ntwo\n", "stderr.txt": b"\xff\0"})
    runner.step()
    assert bridge.desk.log(one, "stdout") == b"one\ntwo\n"
    assert bridge.desk.log(one, "stderr") == b"\xff\0"


def test_a_long_log_is_cut_and_says_so_once(bridge: Bridge) -> None:
    one = bridge.submitted()
    for size in (60, 100, 200):
        bridge.leave(one, {"stdout.txt": "x" * size})
        bridge.verbs.logs.keep([one])
    log = bridge.desk.log(one, "stdout")
    assert log.startswith(b"x" * 64 + b"\n[slurmbridge: the log is longer")
    assert log.count(b"slurmbridge") == 1


def test_a_long_log_of_which_just_the_limit_was_read_says_so_too(bridge: Bridge) -> None:
    one = bridge.submitted()
    for size in (64, 100):
        bridge.leave(one, {"stdout.txt": "x" * size})
        bridge.verbs.logs.keep([one])
    assert b"the log is longer" in bridge.desk.log(one, "stdout")


def test_a_log_of_just_the_limit_is_whole(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.leave(one, {"stdout.txt": "x" * 64})
    bridge.verbs.logs.keep([one])
    assert bridge.desk.log(one, "stdout") == b"x" * 64


def test_keeping_no_logs_asks_nothing(bridge: Bridge) -> None:
    bridge.database.close()
    bridge.log_keeper(1).keep([])


# --- the Runner ---


def test_a_runner_does_all_of_it_by_itself(bridge: Bridge) -> None:
    runner = bridge.runner()
    one = bridge.submit()
    runner.step()
    assert bridge.get(one).job_id == 1
    bridge.start(one)
    runner.step()
    assert bridge.state(one) is ProcessState.RUNNING
    end(bridge, one)
    runner.step()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert bridge.desk.capability().cluster == "test"


def test_a_runner_does_not_submit_while_slurm_is_silent_and_resumes(bridge: Bridge) -> None:
    runner = bridge.runner()
    bridge.slurm.silent = True
    one = bridge.submit()
    runner.step()
    assert "submit" not in bridge.slurm.calls
    assert bridge.state(one) is ProcessState.QUEUED
    bridge.slurm.silent = False
    runner.step()
    assert bridge.get(one).job_id == 1


def test_a_runner_collects_while_slurm_is_silent(bridge: Bridge) -> None:
    runner = bridge.runner()
    one = bridge.submitted()
    end(bridge, one)
    bridge.verbs.observer.observe()
    bridge.slurm.silent = True
    runner.step()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_a_runner_stops_when_told_to_and_says_goodbye(bridge: Bridge) -> None:
    runner = bridge.runner(entered=False)
    answers = iter([False, False, True])
    runner.run(lambda: next(answers))
    assert runner.standing.id not in Roster(bridge.database).beats()


def test_a_process_that_is_not_there_has_no_log(bridge: Bridge) -> None:
    with pytest.raises(UnknownProcess, match="nobody"):
        bridge.desk.log("nobody", "stdout")
