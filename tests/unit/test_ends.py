"""How a Process ends, whatever Slurm and the script said last."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from slurmbridge.bridge.collect import judge
from slurmbridge.context.left import Left
from slurmbridge.context.tree import Bounds
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState, SlurmFlag, SlurmState
from slurmbridge.lifecycle import SlurmStatus as Status
from tests.support.builders import ABSENCE, RETRY, Bridge, end, states
from tests.support.specs import START

SECOND = timedelta(seconds=1)


# --- ends ---


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        (0, ProcessState.COMPLETE, "/output was full when it ended"),
        (1, ProcessState.EXECUTOR_ERROR, "the program ended with exit code 1; /output was full"),
    ],
)
def test_that_its_outputs_may_not_be_whole_is_said_of_any_end(
    bridge: Bridge, code: int, state: ProcessState, reason: str
) -> None:
    one = bridge.submitted()
    bridge.start(one)
    bridge.leave(one, {"output.full": ""})
    end(bridge, one, SlurmState.FAILED if code else SlurmState.COMPLETED, code)
    bridge.look()
    found = bridge.get(one)
    assert found.state is state
    assert (found.reason or "").startswith(reason)
    assert reason in bridge.events(one)[-2].detail


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
    one = bridge.submitted(trace="off")
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


# --- without a time, of another job, without a store ---


def test_the_absence_of_one_job_is_not_counted_for_the_one_that_has_the_context(
    tmp_path: Path,
) -> None:
    bridge = Bridge(tmp_path)
    one = bridge.submitted()
    known = dict(bridge.slurm._accounting)
    bridge.slurm.forget(1, accounting=True)
    bridge.verbs.observer.observe()
    bridge.advance(ABSENCE - SECOND)
    bridge.slurm._accounting.update(known)
    bridge.slurm.end(1, SlurmState.FAILED, 75)
    (bridge.context(one) / "claim").symlink_to("7")
    bridge.look()
    assert bridge.get(one).job_id == 7
    bridge.advance(2 * SECOND)
    bridge.verbs.observer.observe()
    now = bridge.clock()
    claimed = bridge.processes.claim(Phase.COLLECTING, runner="x", limit=1, now=now)
    assert claimed == []


def test_an_end_without_its_time_is_dated_when_it_is_seen(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    one = bridge.submitted()
    end(bridge, one)
    job = bridge.job(one)
    job.report = replace(job.report, ended_at=None)
    bridge.verbs.observer.observe()
    assert bridge.get(one).ended_at == bridge.clock()


def test_a_store_whose_folder_is_a_file_is_the_sites_to_mend(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    (tmp_path / "results").rmdir()
    (tmp_path / "results").touch()
    one = bridge.submit(outputs={"destination": "results:a"})
    bridge.verbs.dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.QUEUED
    assert bridge.get(one).reason == "the folder of the store results is missing"
