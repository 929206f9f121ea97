"""The way of a Process, with a Slurm in memory: every end, every silence, every crash."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.bridge.collect import judge
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.context.folder import Left
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import InvalidProcess, SchedulerUnavailable, SubmissionRefused
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, SlurmFlag, SlurmState
from slurmbridge.lifecycle import SlurmStatus as Status
from slurmbridge.model import Image
from slurmbridge.scheduler import Submission
from slurmbridge.store import ImageStore, SiteStore
from tests.support.builders import (
    ABSENCE,
    LEASE,
    RETRY,
    Bridge,
    Listed,
    crash_before_record,
    crash_before_submission,
    end,
    states,
)
from tests.support.specs import CAPABILITY, IMAGE, MINIMAL, START, spec

SECOND = timedelta(seconds=1)


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path)


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
    assert {file.path for file in process.outputs} == {"output/a/out.csv", "stdout.txt"}
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


# --- ends ---

S, P = SlurmState, ProcessState
ENDS = [
    # Slurm's word, exit code that is left, refusal that is left, verdict, part of the reason
    ("COMPLETED", 0, None, P.COMPLETE, None),
    ("COMPLETED", 3, None, P.SYSTEM_ERROR, "COMPLETED, but the program ended with exit code 3"),
    ("COMPLETED", None, None, P.SYSTEM_ERROR, "left no exit code"),
    ("COMPLETED", 0, "no image", P.SYSTEM_ERROR, "the node refused: no image"),
    ("COMPLETED+UPDATE_DB", 0, None, P.COMPLETE, None),
    ("FAILED", 3, None, P.EXECUTOR_ERROR, "exit code 3"),
    ("FAILED", 200, None, P.EXECUTOR_ERROR, "exit code 200"),
    ("FAILED", None, None, P.SYSTEM_ERROR, "left no exit code"),
    ("FAILED", 78, "no image", P.SYSTEM_ERROR, "the node refused: no image"),
    ("FAILED", 0, None, P.SYSTEM_ERROR, "FAILED, but the program ended with exit code 0"),
    ("CANCELLED", 143, None, P.CANCELED, "it was canceled"),
    ("CANCELLED by 1000", None, None, P.CANCELED, "it was canceled"),
    ("TIMEOUT", 143, None, P.EXECUTOR_ERROR, "time limit"),
    ("OUT_OF_MEMORY", 137, None, P.EXECUTOR_ERROR, "memory"),
    ("DEADLINE", None, None, P.EXECUTOR_ERROR, "deadline"),
    ("PREEMPTED", None, None, P.PREEMPTED, "preempted"),
    ("NODE_FAIL", None, None, P.SYSTEM_ERROR, "a node failed"),
    ("BOOT_FAIL", None, None, P.SYSTEM_ERROR, "could not be started"),
    ("LAUNCH_FAILED", None, None, P.SYSTEM_ERROR, "Slurm reports LAUNCH_FAILED"),
    ("REVOKED", None, None, P.SYSTEM_ERROR, "Slurm reports REVOKED"),
    (None, 0, None, P.COMPLETE, None),
    (None, 5, None, P.EXECUTOR_ERROR, "exit code 5"),
    (None, None, None, P.SYSTEM_ERROR, "know nothing"),
    (None, 78, "no image", P.SYSTEM_ERROR, "the node refused"),
]


@pytest.mark.parametrize(("word", "code", "refused", "state", "reason"), ENDS)
def test_each_end_has_its_verdict(
    word: str | None, code: int | None, refused: str | None, state: ProcessState, reason: str | None
) -> None:
    verdict = judge(word, Left(code, refused))
    assert (verdict.state, verdict.exit_code) == (state, code)
    assert (verdict.reason is None) if reason is None else (reason in str(verdict.reason))


def test_every_final_word_of_slurm_has_an_end_in_the_table() -> None:
    final = set(SlurmState) - {SlurmState.PENDING, SlurmState.RUNNING, SlurmState.SUSPENDED}
    assert final <= {str(entry[0]).split("+")[0].split(" ")[0] for entry in ENDS}


@pytest.mark.parametrize("left", [Left(0, None), Left(None, None), Left(0, "x"), Left(1, None)])
@pytest.mark.parametrize("word", [*SlurmState, *SlurmFlag, "BANANA", "(none)", None])
def test_only_a_completed_job_with_exit_code_0_is_complete(word: str | None, left: Left) -> None:
    complete = judge(word, left).state is ProcessState.COMPLETE
    assert not complete or (left == Left(0, None) and word in {None, "COMPLETED"})


@pytest.mark.parametrize("word", ["COMPLETED+REVOKED", "COMPLETED+LAUNCH_FAILED"])
def test_a_job_that_slurm_also_calls_failed_is_not_complete(word: str) -> None:
    assert judge(word, Left(0, None)).state is ProcessState.SYSTEM_ERROR


@pytest.mark.parametrize(
    ("slurm", "state"),
    [
        (S.COMPLETED, P.COMPLETE),
        (S.CANCELLED, P.CANCELED),
        (S.FAILED, P.EXECUTOR_ERROR),
        (S.TIMEOUT, P.EXECUTOR_ERROR),
        (S.OUT_OF_MEMORY, P.EXECUTOR_ERROR),
        (S.DEADLINE, P.EXECUTOR_ERROR),
        (S.PREEMPTED, P.PREEMPTED),
        (S.NODE_FAIL, P.SYSTEM_ERROR),
        (S.BOOT_FAIL, P.SYSTEM_ERROR),
    ],
)
def test_each_end_of_a_job_ends_its_process_and_frees_its_context(
    bridge: Bridge, slurm: SlurmState, state: ProcessState
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.leave(one, {"output/partial": "kept"})
    end(bridge, one, slurm, 0 if slurm is S.COMPLETED else 7)
    bridge.look()
    assert bridge.state(one) is state
    assert bridge.get(one).ended_at == START
    assert not bridge.context(one).exists()
    # What there is of outputs is carried, however the job ended.
    assert (bridge.root / f"results/processes/{one}/output/partial").read_text() == "kept"


@pytest.mark.parametrize(
    "status",
    [
        Status(S.RUNNING),
        Status(S.SUSPENDED),
        Status(S.COMPLETED, frozenset({SlurmFlag.COMPLETING})),
        Status(S.COMPLETED, frozenset({SlurmFlag.STAGE_OUT})),
        Status(None, unlisted=("BANANA",)),
        Status(S.COMPLETED, unlisted=("BANANA",)),
    ],
    ids=str,
)
def test_what_is_not_a_known_end_ends_nothing(bridge: Bridge, status: Status) -> None:
    one = bridge.submitted()
    bridge.leave(one, {"exit_code": "0\n"})
    bridge.slurm.advance(status, bridge.job(one).report.job_id)
    bridge.look()
    assert bridge.state(one) not in FINAL_STATES
    assert bridge.context(one).exists()


def test_a_requeued_process_is_queued_again_and_can_complete(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.requeue(bridge.job(one).report.job_id)
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED
    bridge.start(one)
    bridge.look()
    end(bridge, one)
    bridge.look()
    assert states(bridge.events(one))[-4:] == ["RUNNING", "QUEUED", "RUNNING", "COMPLETE"]


def test_outputs_above_the_bound_are_the_submitters_to_put_right(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, output=Bounds(10, 10))
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {"output/large": "x" * 11, "stdout.txt": "printed"})
    end(bridge, one)
    bridge.look()
    process = bridge.get(one)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert "too much to be carried" in str(process.reason)
    assert bridge.desk.log(one, "stdout") == b"printed"
    assert [file.path for file in process.outputs] == ["stdout.txt"]
    assert not bridge.context(one).exists()


def test_outputs_that_cannot_be_carried_now_are_carried_later(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {"output/a": "a"})
    end(bridge, one)
    store = bridge.root / "results"
    store.rmdir()
    store.write_text("not a folder")
    bridge.look()
    assert bridge.state(one) not in FINAL_STATES
    assert (bridge.context(one) / "output/a").exists()
    store.unlink()
    store.mkdir()
    bridge.look()
    assert bridge.state(one) not in FINAL_STATES
    bridge.advance(RETRY)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert (store / f"processes/{one}/output/a").read_text() == "a"


def test_what_was_not_plain_is_named_with_the_process(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    (bridge.context(one) / "output/link").symlink_to("/etc/passwd")
    end(bridge, one)
    bridge.look()
    assert bridge.get(one).outputs_ignored == ("link: not a plain file",)


def test_a_process_is_final_before_its_context_is_gone(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.verbs.observer.observe()
    seen: list[tuple[ProcessState, bool]] = []
    bridge.processes.after = lambda: seen.append((bridge.state(one), bridge.context(one).exists()))
    bridge.verbs.collector.collect()
    assert seen == [(ProcessState.COMPLETE, True)]
    assert not bridge.context(one).exists()


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


# --- silence ---


def test_while_slurm_is_silent_a_process_waits_and_nothing_is_lost(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(3)]
    bridge.slurm.silent = True
    for _ in range(3):
        bridge.verbs.dispatcher.dispatch()
        with pytest.raises(SchedulerUnavailable):
            bridge.look()
        assert {bridge.state(one) for one in ids} == {ProcessState.QUEUED}
        bridge.advance(RETRY)
    bridge.slurm.silent = False
    bridge.verbs.dispatcher.dispatch()
    assert [len(bridge.jobs_of(one)) for one in ids] == [1, 1, 1]


def test_while_slurm_is_silent_the_batches_behind_are_not_tried(bridge: Bridge) -> None:
    ids = [bridge.submit() for _ in range(10)]
    bridge.slurm.silent = True
    bridge.new_verbs("runner-1", batch=2).dispatcher.dispatch()
    assert bridge.slurm.calls.count("submit") == 1
    assert {bridge.state(one) for one in ids} == {ProcessState.QUEUED}


def test_a_silence_ends_no_running_process(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.silent = True
    bridge.advance(10 * ABSENCE)
    with pytest.raises(SchedulerUnavailable):
        bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    bridge.slurm.silent = False
    end(bridge, one)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_after_a_swallowed_answer_the_job_is_found_by_its_name(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.swallow = True
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.UNKNOWN
    assert bridge.get(one).job_id is None
    bridge.verbs.dispatcher.dispatch()
    bridge.advance(RETRY)
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED
    assert bridge.jobs_of(one) == [1]
    assert bridge.get(one).job_id == 1


def test_a_job_that_was_adopted_after_it_had_ended_is_collected(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.swallow = True
    bridge.verbs.dispatcher.dispatch()
    bridge.start(one)
    end(bridge, one)
    bridge.slurm.forget(1)
    bridge.advance(RETRY)
    bridge.look()
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_after_a_crash_between_submission_and_record_another_runner_adopts_the_job(
    bridge: Bridge,
) -> None:
    one = crash_before_record(bridge)
    assert bridge.get(one).job_id is None
    other = bridge.new_verbs("runner-2")
    assert other.recoverer.recover() == 0  # the first may still live
    bridge.advance(LEASE + SECOND)
    other.dispatcher.dispatch()
    assert other.recoverer.recover() == 1
    assert (bridge.get(one).job_id, bridge.jobs_of(one)) == (1, [1])
    assert "found by its name as job 1" in bridge.events(one)[-1].detail


def test_after_a_crash_between_intent_and_submission_it_is_submitted_once_its_absence_is_proven(
    bridge: Bridge,
) -> None:
    one = crash_before_submission(bridge)
    bridge.advance(LEASE + SECOND)
    other = bridge.new_verbs("runner-2")
    other.recoverer.recover()
    bridge.advance(ABSENCE - SECOND)
    other.recoverer.recover()
    other.dispatcher.dispatch()
    assert (bridge.state(one), bridge.jobs_of(one)) == (ProcessState.UNKNOWN, [])
    bridge.advance(RETRY)
    other.recoverer.recover()
    assert bridge.state(one) is ProcessState.QUEUED
    other.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]


def test_what_is_in_doubt_stays_in_doubt_until_its_absence_has_lasted(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.answer = SchedulerUnavailable("socket timed out")
    bridge.verbs.dispatcher.dispatch()
    bridge.slurm.answer = None
    bridge.advance(RETRY)
    waited = timedelta()
    while waited < ABSENCE:
        assert bridge.verbs.recoverer.recover() == 1
        assert bridge.state(one) is ProcessState.UNKNOWN
        bridge.verbs.dispatcher.dispatch()
        assert bridge.jobs_of(one) == []
        bridge.advance(RETRY)
        waited += RETRY
    bridge.verbs.recoverer.recover()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == [1]


def test_while_slurm_is_silent_no_absence_is_proven(bridge: Bridge) -> None:
    one = crash_before_record(bridge)
    bridge.slurm.silent = True
    bridge.advance(10 * LEASE)
    with pytest.raises(SchedulerUnavailable):
        bridge.verbs.recoverer.recover()
    bridge.slurm.silent = False
    bridge.advance(LEASE + SECOND)
    bridge.verbs.recoverer.recover()
    assert bridge.jobs_of(one) == [1]
    assert bridge.get(one).job_id == 1


# --- absence ---


def test_a_job_that_only_accounting_knows_to_have_ended_is_collected_at_once(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.slurm.forget(1)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert "fake accounting" in {event.source for event in bridge.events(one)}


def test_a_job_that_nobody_knows_is_lost_only_after_its_absence_has_lasted(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.advance(ABSENCE - SECOND)
    bridge.look()
    assert bridge.state(one) is ProcessState.RUNNING
    assert bridge.context(one).exists()
    bridge.advance(SECOND)
    bridge.look()
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR
    assert "know nothing of the job's end" in str(bridge.get(one).reason)


def test_a_job_that_nobody_knows_but_that_left_its_exit_code_has_ended(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {"exit_code": "0\n"})
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE


def test_a_job_that_reappears_was_not_absent(bridge: Bridge) -> None:
    one = bridge.submitted()
    known = bridge.slurm._known.copy()
    accounting = bridge.slurm._accounting.copy()
    bridge.slurm.forget(1, accounting=True)
    bridge.look()
    bridge.slurm._known.update(known)
    bridge.slurm._accounting.update(accounting)
    bridge.look()
    bridge.slurm.forget(1, accounting=True)
    bridge.advance(ABSENCE)
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED


def test_a_job_with_the_same_id_and_another_name_is_another_job(bridge: Bridge) -> None:
    one = bridge.submitted()
    job = bridge.job(one)
    bridge.slurm.forget(1, accounting=True)
    other = replace(job.report, job_name="somebody-elses", status=Status(S.COMPLETED))
    job.report = other
    bridge.slurm._known[1] = job
    bridge.look()
    assert bridge.state(one) is ProcessState.QUEUED


# slurmdbd keeps such "runaway jobs" until an operator fixes them (sacctmgr show runawayjobs).
def test_a_job_that_only_accounting_believes_to_run_is_lost_after_its_absence(
    bridge: Bridge,
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.slurm.forget(1)
    for _ in range(10):
        bridge.look()
        bridge.advance(ABSENCE)
    assert bridge.state(one) is ProcessState.SYSTEM_ERROR


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
    assert bridge.slurm.calls == ["jobs", "history"]
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


# --- cancel ---


def test_a_process_that_waits_is_canceled_and_never_submitted(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.desk.cancel(one, by="alice")
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.CANCELED
    assert bridge.jobs_of(one) == []


def test_a_cancel_while_inputs_are_staged_is_obeyed_once_slurm_has_the_job(
    bridge: Bridge,
) -> None:
    (bridge.root / "data/a").touch()
    one = bridge.submit(inputs=[{"source": "data:a"}])
    stores = Listed(bridge.stores)
    stores.before = lambda: bridge.desk.cancel(one, by="alice")
    bridge.new_verbs("runner-1", stores=stores).dispatcher.dispatch()
    bridge.look()
    bridge.look()
    assert bridge.state(one) is ProcessState.CANCELED
    assert not bridge.context(one).exists()


@pytest.mark.parametrize("running", [False, True])
def test_a_job_is_canceled_and_its_process_follows(bridge: Bridge, running: bool) -> None:
    one = bridge.submitted()
    if running:
        bridge.start(one)
        bridge.look()
    assert bridge.desk.cancel(one, by="alice").cancel_requested
    bridge.verbs.observer.observe()
    assert bridge.state(one) is ProcessState.CANCELING
    assert bridge.slurm.calls[-1] == "cancel"
    bridge.look()
    assert bridge.state(one) is ProcessState.CANCELED
    assert not bridge.context(one).exists()


def test_a_cancel_is_asked_for_again_until_the_job_has_ended(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    bridge.desk.cancel(one, by="alice")
    bridge.slurm.deaf = True
    for _ in range(3):
        bridge.look()
    assert bridge.slurm.calls.count("cancel") == 3
    assert bridge.state(one) is ProcessState.CANCELING
    assert [event.detail for event in bridge.events(one)].count(
        "Slurm was asked to cancel job 1"
    ) == 1


def test_a_cancel_that_came_too_late_is_no_lie(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    end(bridge, one)
    bridge.desk.cancel(one, by="alice")
    bridge.look()
    assert bridge.state(one) is ProcessState.COMPLETE
    assert "cancel" not in bridge.slurm.calls


def test_a_cancel_of_what_is_in_doubt_waits_until_the_job_is_found(bridge: Bridge) -> None:
    one = bridge.submit()
    bridge.slurm.swallow = True
    bridge.verbs.dispatcher.dispatch()
    assert bridge.desk.cancel(one, by="alice").state is ProcessState.UNKNOWN
    bridge.advance(RETRY)
    for _ in range(3):
        bridge.look()
    assert bridge.state(one) is ProcessState.CANCELED
    assert bridge.jobs_of(one) == [1]


def test_a_cancel_of_what_never_reached_slurm_ends_it_once_that_is_proven(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    bridge.desk.cancel(one, by="alice")
    bridge.advance(LEASE + SECOND)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.CANCELED
    assert bridge.jobs_of(one) == []


def test_a_cancel_while_slurm_is_silent_leaves_no_context(bridge: Bridge) -> None:
    (bridge.root / "data/secret").write_text("secret")
    one = bridge.submit(inputs=[{"source": "data:secret"}])
    bridge.slurm.silent = True
    bridge.verbs.dispatcher.dispatch()
    assert (bridge.context(one) / "input/secret").exists()
    bridge.desk.cancel(one, by="alice")
    assert bridge.verbs.collector.sweep() == 1
    assert not bridge.context(one).exists()


def test_a_cancel_of_what_never_reached_slurm_leaves_no_context(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    bridge.desk.cancel(one, by="alice")
    bridge.advance(LEASE + SECOND)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    bridge.verbs.dispatcher.dispatch()
    bridge.verbs.collector.sweep()
    assert bridge.state(one) is ProcessState.CANCELED
    assert not bridge.context(one).exists()


def test_what_has_not_ended_and_what_is_not_known_is_not_swept(bridge: Bridge) -> None:
    one, two = bridge.submitted(), bridge.submitted()
    (bridge.contexts / "lost+found").mkdir()
    end(bridge, one)
    bridge.verbs.observer.observe()
    assert bridge.verbs.collector.sweep() == 0
    assert bridge.context(one).exists()
    assert bridge.context(two).exists()
    assert (bridge.contexts / "lost+found").exists()


def test_a_runner_sweeps_by_itself(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.look()
    bridge.leave(one, {"output/late": "left by a Runner that died"})
    bridge.runner().step()
    assert not bridge.context(one).exists()


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
        bridge.advance(LEASE + SECOND)
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
    claimed = bridge.processes.claim(
        Phase.COLLECTING, runner="runner-2", limit=1, now=START, lease=LEASE
    )
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
    LogKeeper(bridge.processes, bridge.contexts, limit_bytes=1).keep([])


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
    runner = bridge.runner()
    answers = iter([False, False, True])
    runner.run(lambda: next(answers))
    assert SiteStore(bridge.database).runners(since=START - LEASE) == []


# --- what is refused before anything is done ---

RULES = Rules(frozenset({"data"}), frozenset({"results"}), has_default_destination=True)


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"image": "julia"}, "image", "recorded: python"),
        ({"inputs": [{"source": "data:a"}, {"source": "x:b"}]}, "inputs.1.source", "'x'"),
        ({"inputs": [{"source": "results:a"}]}, "inputs.0.source", "readable store 'results'"),
        ({"code": {"source": "x:a"}}, "code.source", "'x'"),
        ({"outputs": {"destination": "data:a"}}, "outputs.destination", "writable store 'data'"),
        ({"account": "nope"}, "account", "known: research, teaching"),
        ({"partition": "nope"}, "partition", "known: main"),
        ({"resources": {"cpus_per_task": 5}}, "resources.cpus_per_task", "(4)"),
        ({"resources": {"memory_mib": 4001}}, "resources.memory_mib", "(4000 MiB)"),
        ({"time_limit_minutes": 1441}, "time_limit_minutes", "(1440)"),
    ],
)
def test_what_this_site_does_not_have_is_refused_by_name(
    changes: dict[str, Any], field: str, part: str
) -> None:
    with pytest.raises(InvalidProcess) as caught:
        check(spec(**changes), RULES, images={"python": IMAGE}, capability=CAPABILITY)
    [(location, message)] = caught.value.fields
    assert location == field
    assert part in message


def test_all_that_is_wrong_is_told_at_once() -> None:
    wanted = spec(image="julia", account="nope", time_limit_minutes=1441)
    with pytest.raises(InvalidProcess) as caught:
        check(wanted, RULES, images={}, capability=CAPABILITY)
    assert [field for field, _ in caught.value.fields] == ["image", "account", "time_limit_minutes"]


def test_without_a_default_destination_one_must_be_named() -> None:
    rules = Rules(frozenset(), frozenset({"results"}), has_default_destination=False)
    with pytest.raises(InvalidProcess, match="outputs: is required"):
        check(spec(), rules, images={"python": IMAGE}, capability=None)
    named = spec(outputs={"destination": "results:a"})
    check(named, rules, images={"python": IMAGE}, capability=None)


def test_what_is_just_within_the_limits_is_taken() -> None:
    wanted = spec(
        resources={"cpus_per_task": 4, "memory_mib": 4000},
        time_limit_minutes=1440,
        account="research",
    )
    check(wanted, RULES, images={"python": IMAGE}, capability=CAPABILITY)


def test_before_the_first_report_on_the_cluster_slurm_is_left_to_judge() -> None:
    wanted = spec(account="nope", partition="nope", resources={"cpus_per_task": 4096})
    check(wanted, RULES, images={"python": IMAGE}, capability=None)


def test_an_image_without_the_signature_that_is_required_is_refused() -> None:
    rules = replace(RULES, signature_required=True)
    with pytest.raises(InvalidProcess, match="image: the image 'python' is not signed"):
        check(spec(), rules, images={"python": ADDED}, capability=CAPABILITY)
    check(spec(), RULES, images={"python": ADDED}, capability=CAPABILITY)
    for image in (IMAGE, ADDED.model_copy(update={"signed": True})):
        check(spec(), rules, images={"python": image}, capability=CAPABILITY)


def test_a_refused_process_is_not_recorded(bridge: Bridge) -> None:
    with pytest.raises(InvalidProcess):
        bridge.submit(**{**MINIMAL, "image": "julia"})
    assert bridge.desk.page() == []
