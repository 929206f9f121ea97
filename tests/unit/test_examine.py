"""Examining nodes, with a Slurm in memory: who asks, what comes back, and what does not."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurmbridge.bridge.examine import (
    BATCH,
    FOLDER,
    KNOWN_KEPT,
    LEFT_FILES_KEPT,
    UNKNOWN,
    UNSEEN,
    Avoidance,
    Examiner,
    ExaminerRules,
    job_name,
)
from slurmbridge.context.folder import Contexts
from slurmbridge.errors import NoNodeReady, RequestError, SchedulerUnavailable
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.model import NodeReadiness
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import Database, Examination, NodeStore, SiteStore
from slurmbridge.testing.scheduler import FakeScheduler, hand_clock
from tests.support.builders import RETRY, Bridge, shipped_templates
from tests.support.databases import fresh_database
from tests.support.specs import CAPABILITY, START, spec
from tests.unit.test_readiness import GOOD

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NODES = ("node1", "node2", "node3")
MAIN = CAPABILITY.partitions[0].model_copy(update={"node_names": NODES})
CLUSTER = CAPABILITY.model_copy(
    update={
        "partitions": (
            MAIN.model_copy(update={"name": "a-down", "default": False, "up": False}),
            MAIN.model_copy(update={"name": "b-open", "default": False}),
            MAIN,
        )
    }
)


class Clinic:
    """An examiner and all that it works with."""

    def __init__(self, root: Path, nodes: tuple[str, ...] = NODES) -> None:
        self.contexts = root
        self.clock, self.advance = hand_clock(START)
        self.cluster = CLUSTER.model_copy(
            update={
                "partitions": tuple(
                    entry.model_copy(update={"node_names": nodes}) for entry in CLUSTER.partitions
                )
            }
        )
        self.slurm = FakeScheduler(self.cluster, clock=self.clock)
        self.database: Database = fresh_database()
        self.nodes = NodeStore(self.database)
        self.examiner = self.another()

    def another(self) -> Examiner:
        """An examiner, as of another Runner."""
        rules = ExaminerRules(
            Contexts(LocalFiles(), self.contexts),
            self.contexts,
            every=12 * HOUR,
            retry=HOUR,
            answer=10 * MINUTE,
            look=timedelta(0),
        )
        return Examiner(self.nodes, self.slurm, shipped_templates(), rules, clock=self.clock)

    def row(self, node: str) -> Examination:
        [found] = [row for row in self.nodes.all() if row.node == node]
        return found

    def known(self, node: str) -> NodeReadiness:
        found = self.row(node).readiness
        assert found is not None
        return found

    def job_id(self, node: str) -> int:
        found = self.row(node).job_id
        assert found is not None
        return found

    def answer(self, node: str, **changes: str) -> None:
        """The job runs to its end and leaves a report."""
        row = self.row(node)
        lines = GOOD | {"node": node, "clock": str(int(self.clock().timestamp()))} | changes
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.contexts / FOLDER / job_name(row)).write_text(text)
        self.end(node)

    def end(self, node: str, state: SlurmState = SlurmState.COMPLETED) -> None:
        self.slurm.start(self.job_id(node))
        self.slurm.end(self.job_id(node), state)

    def live(self) -> list[int]:
        return [job.job_id for job in self.slurm.jobs() if job.ended_at is None]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def all_answer(clinic: Clinic, **changes: str) -> None:
    clinic.examiner.examine()
    for name in NODES:
        clinic.answer(name, **changes)
    clinic.advance(SECOND)
    clinic.examiner.examine()


def test_every_node_is_asked_once_and_its_report_is_kept(clinic: Clinic) -> None:
    all_answer(clinic)
    for name in NODES:
        known = clinic.known(name)
        assert (known.node, known.can_seal, known.can_trace) == (name, True, True)
        assert known.observed_at == START + SECOND
        assert clinic.row(name).asked_at is None
    assert clinic.slurm.calls.count("submit") == len(NODES)
    assert list((clinic.contexts / FOLDER).iterdir()) == []


def test_the_job_is_bound_to_its_node_in_the_default_partition(clinic: Clinic) -> None:
    clinic.examiner.examine()
    script = clinic.slurm.job(job_name(clinic.row("node2"))).script
    assert "#SBATCH --nodelist=node2\n" in script
    assert "#SBATCH --partition=main\n" in script
    assert f"#SBATCH --chdir={clinic.contexts}/{FOLDER}\n" in script
    assert f"{clinic.contexts}/{FOLDER}/{job_name(clinic.row('node2'))}.new" in script


def test_its_name_is_never_that_of_a_process(clinic: Clinic) -> None:
    clinic.examiner.examine()
    assert {report.job_name.rpartition("-")[0] for report in clinic.slurm.jobs()} == {
        "sb-doctor-node1", "sb-doctor-node2", "sb-doctor-node3",
    }  # fmt: skip


def test_a_good_node_is_asked_again_after_half_a_day(clinic: Clinic) -> None:
    all_answer(clinic)
    clinic.advance(12 * HOUR - MINUTE)
    clinic.examiner.examine()
    assert clinic.slurm.calls.count("submit") == 3
    clinic.advance(MINUTE)
    clinic.examiner.examine()
    assert clinic.slurm.calls.count("submit") == 6


@pytest.mark.parametrize("changes", [{"fuse": "no: (exit code 1)"}, {"zstd": ""}])
def test_a_node_that_lacks_something_is_asked_again_after_the_retry(
    clinic: Clinic, changes: dict[str, str]
) -> None:
    all_answer(clinic, **changes)
    assert clinic.known("node1").can_trace is False
    clinic.advance(HOUR)
    clinic.examiner.examine()
    assert clinic.slurm.calls.count("submit") == 6
    # Until it has answered, what was known stays.
    assert clinic.known("node1").can_trace is False


def test_few_nodes_are_asked_at_a_time(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, tuple(f"n{number:02}" for number in range(10)))
    for turn in (1, 2):
        clinic.examiner.examine()
        assert clinic.slurm.calls.count("submit") == turn * BATCH


def test_a_node_that_starts_no_jobs_is_left_alone(clinic: Clinic) -> None:
    clinic.slurm.down = {"node2"}
    clinic.examiner.examine()
    assert [row.node for row in clinic.nodes.all()] == ["node1", "node3"]


def test_of_two_runners_one_asks(clinic: Clinic) -> None:
    one, other = clinic.examiner, clinic.another()
    row = Examination("node1")
    one.ask(row, ["main"])
    other.ask(row, ["main"])
    assert clinic.slurm.calls.count("submit") == 1


def test_what_one_has_asked_another_takes(clinic: Clinic) -> None:
    clinic.examiner.examine()
    clinic.answer("node1")
    clinic.another().examine()
    assert clinic.known("node1").can_seal
    clinic.examiner.examine()
    assert clinic.row("node1").asked_at is None


def test_the_intent_is_durable_before_slurm_is_asked(clinic: Clinic) -> None:
    clinic.slurm.silent = False
    submit = clinic.slurm.submit
    seen: list[tuple[datetime | None, int | None]] = []

    def look(submissions: object, on_outcome: object = None) -> object:
        seen.append((clinic.row("node1").asked_at, clinic.row("node1").job_id))
        return submit(submissions, None)  # type: ignore[arg-type]

    clinic.slurm.submit = look  # type: ignore[method-assign, assignment]
    clinic.examiner.ask(Examination("node1"), ["main"])
    assert seen == [(START, None)]


def test_a_job_whose_id_was_not_recorded_is_found_by_its_name(clinic: Clinic) -> None:
    clinic.slurm.swallow = True
    clinic.examiner.ask(Examination("node1"), ["main"])
    assert clinic.row("node1").job_id is None
    clinic.examiner.take()
    assert clinic.row("node1").job_id == 1


def test_what_never_reached_slurm_is_given_up_and_tried_later(clinic: Clinic) -> None:
    clinic.slurm.silent = True
    clinic.examiner.ask(Examination("node1"), ["main"])
    clinic.slurm.silent = False
    clinic.advance(UNKNOWN)
    assert clinic.examiner.take() == []
    known = clinic.known("node1")
    assert known.can_seal is None
    assert "not known to Slurm" in (known.remark or "")


def test_another_partition_is_tried_where_one_refuses(clinic: Clinic) -> None:
    clinic.examiner.ask(Examination("node1"), ["nowhere", "b-open"])
    assert "--partition=b-open" in clinic.slurm.job(job_name(clinic.row("node1"))).script


def test_a_node_that_no_partition_lets_in_says_so(clinic: Clinic) -> None:
    clinic.examiner.ask(Examination("node1"), ["nowhere"])
    known = clinic.known("node1")
    assert known.can_seal is None
    assert known.remark == (
        "it cannot be examined: Slurm refused the job: invalid partition specified"
    )


def test_a_job_that_waits_for_long_is_the_remark_and_what_was_known_stays(clinic: Clinic) -> None:
    all_answer(clinic)
    clinic.advance(12 * HOUR)
    clinic.examiner.examine()
    clinic.advance(10 * MINUTE)
    clinic.examiner.examine()
    known = clinic.known("node1")
    assert known.can_seal
    job_id = clinic.job_id("node1")
    assert known.remark == (f"the examination job {job_id} has been pending for 10 min (Priority)")
    clinic.answer("node1")
    clinic.examiner.examine()
    assert clinic.known("node1").remark is None


def test_a_job_that_never_starts_is_canceled_in_the_end(clinic: Clinic) -> None:
    clinic.examiner.examine()
    clinic.advance(12 * HOUR)
    clinic.examiner.take()
    assert clinic.live() == []
    assert clinic.known("node1").remark == "job 1 never started"


@pytest.mark.parametrize(
    "state", [SlurmState.COMPLETED, SlurmState.FAILED, SlurmState.TIMEOUT, SlurmState.OUT_OF_MEMORY]
)
def test_a_node_whose_job_leaves_no_report_cannot_seal(clinic: Clinic, state: SlurmState) -> None:
    clinic.examiner.examine()
    clinic.end("node1", state)
    (clinic.contexts / FOLDER / f"{job_name(clinic.row('node1'))}.log").write_text("a\nno df\n")
    clinic.examiner.examine()
    assert clinic.row("node1").asked_at is not None  # It may only not be seen yet.
    clinic.advance(UNSEEN)
    clinic.examiner.examine()
    known = clinic.known("node1")
    assert (known.can_seal, known.can_trace) == (False, False)
    assert known.problems == (f"job 1 ended ({state}) and left no report: no df",)


def test_a_job_that_says_nothing_at_all_may_not_see_the_contexts(clinic: Clinic) -> None:
    clinic.examiner.examine()
    clinic.end("node1", SlurmState.FAILED)
    clinic.advance(UNSEEN)
    clinic.examiner.examine()
    assert f"the node may not see {clinic.contexts}" in clinic.known("node1").problems[0]


@pytest.mark.parametrize("state", [SlurmState.CANCELLED, SlurmState.NODE_FAIL])
def test_an_end_that_is_not_the_nodes_doing_says_nothing_of_it(
    clinic: Clinic, state: SlurmState
) -> None:
    clinic.examiner.examine()
    clinic.end("node1", state)
    clinic.advance(UNSEEN)
    clinic.examiner.examine()
    known = clinic.known("node1")
    assert known.can_seal is None
    assert known.remark == f"the examination job 1 ended: {state}"


def test_a_node_that_left_the_cluster_is_forgotten_and_its_job_canceled(clinic: Clinic) -> None:
    assert clinic.nodes.ask(Examination("gone"), now=START)
    assert clinic.nodes.bind(clinic.row("gone"), 77)
    clinic.examiner.examine()
    assert "gone" not in {row.node for row in clinic.nodes.all()}
    assert "cancel" in clinic.slurm.calls


def test_a_silent_slurm_concludes_nothing(clinic: Clinic) -> None:
    clinic.examiner.examine()
    clinic.slurm.silent = True
    clinic.advance(20 * MINUTE)
    with pytest.raises(SchedulerUnavailable):
        clinic.examiner.examine()
    assert [row.readiness for row in clinic.nodes.all()] == [None] * 3


def a_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, a_link], ids=["fifo", "folder", "link"])
def test_what_is_no_plain_file_is_no_report(clinic: Clinic, make: Callable[[Path], None]) -> None:
    clinic.examiner.examine()
    make(clinic.contexts / FOLDER / job_name(clinic.row("node1")))
    clinic.examiner.examine()
    assert clinic.row("node1").asked_at is not None


def test_files_that_nobody_took_are_removed(clinic: Clinic) -> None:
    (clinic.contexts / FOLDER).mkdir()
    old, new = clinic.contexts / FOLDER / "old", clinic.contexts / FOLDER / "new"
    for path, age in ((old, LEFT_FILES_KEPT + HOUR), (new, HOUR)):
        path.touch()
        os.utime(path, (0, (START - age).timestamp()))
    clinic.examiner.examine()
    assert (old.exists(), new.exists()) == (False, True)


# --- asked by a person ---


def test_only_the_named_nodes_are_asked_and_good_ones_too(clinic: Clinic) -> None:
    all_answer(clinic)
    assert clinic.examiner.start(["node3"]) == ["node3"]
    assert [row.node for row in clinic.examiner.take()] == ["node3"]
    clinic.answer("node3", fuse="no: (exit code 1)")
    assert clinic.examiner.take() == []
    assert clinic.known("node3").can_seal is False


def test_a_node_that_does_not_exist_is_refused(clinic: Clinic) -> None:
    with pytest.raises(RequestError, match=r"no node nowhere \(known: node1, node2, node3\)"):
        clinic.examiner.start(["nowhere"])


def test_an_examination_that_has_just_begun_is_joined_and_an_old_one_replaced(
    clinic: Clinic,
) -> None:
    clinic.examiner.examine()
    clinic.another().start(["node1"])
    assert clinic.slurm.calls.count("submit") == 3
    clinic.advance(10 * MINUTE)
    before = clinic.job_id("node1")
    clinic.another().start(["node1"])
    assert clinic.job_id("node1") != before
    assert before not in clinic.live()


def test_a_node_that_cannot_be_asked_now_says_so_at_once(clinic: Clinic) -> None:
    clinic.slurm.down = {"node1"}
    clinic.examiner.start(["node1"])
    assert clinic.examiner.take() == []
    assert "starts no jobs now" in (clinic.known("node1").remark or "")


def test_giving_up_leaves_no_job_behind(clinic: Clinic) -> None:
    clinic.examiner.start([])
    clinic.advance(90 * SECOND)
    clinic.examiner.take()
    clinic.examiner.give_up(NODES)
    assert clinic.live() == []
    assert clinic.known("node1").remark == (
        "the examination job 1 has been pending for 1 min (Priority), and was canceled"
    )


def test_a_late_end_of_an_examination_changes_nothing_of_a_newer_one(clinic: Clinic) -> None:
    clinic.examiner.examine()
    old = clinic.row("node1")
    assert clinic.nodes.ask(old, now=START + SECOND)
    readiness = NodeReadiness(node="node1", can_seal=False)
    assert not clinic.nodes.conclude(old, readiness, now=START)
    assert not clinic.nodes.bind(old, 9)
    assert not clinic.nodes.ask(replace(old, observed_at=START), now=START)


# --- what jobs keep away from ---


def avoidance(clinic: Clinic) -> Avoidance:
    site = SiteStore(clinic.database)
    site.record_capability(clinic.cluster.model_copy(update={"observed_at": START}))
    return Avoidance(site, clinic.nodes, clock=clinic.clock)


def test_without_a_report_on_the_cluster_nothing_is_avoided(clinic: Clinic) -> None:
    site = SiteStore(clinic.database)
    assert Avoidance(site, clinic.nodes, clock=clinic.clock)(spec()) == ()


def test_what_is_known_of_nodes_is_believed_for_seconds_and_no_longer(clinic: Clinic) -> None:
    avoid = avoidance(clinic)
    assert avoid(spec()) == ()
    clinic.examiner.examine()
    clinic.answer("node3", strace="")
    clinic.examiner.take()
    assert avoid(spec()) == ()
    clinic.advance(KNOWN_KEPT)
    assert avoid(spec()) == ("node3",)
    assert avoid(spec(trace="off")) == ()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"squashfuse": ""}, "main is not offered"),
        ({"zstd": ""}, "a trace is not possible in main"),
    ],
)
def test_without_any_node_a_process_has_to_wait(
    clinic: Clinic, lacking: dict[str, str], said: str
) -> None:
    all_answer(clinic, **lacking)
    with pytest.raises(NoNodeReady, match=said):
        avoidance(clinic)(spec())


def test_a_process_waits_for_a_node_and_then_its_job_avoids_the_others(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    known: list[tuple[str, ...]] = []

    def avoid(_spec: ProcessSpec) -> tuple[str, ...]:
        if not known:
            raise NoNodeReady("main is not offered: its only node cannot seal")
        return known[0]

    dispatcher = bridge.verbs.dispatcher
    dispatcher._renderer = replace(dispatcher._renderer, avoid=avoid)
    one = bridge.submit()
    dispatcher.dispatch()
    assert bridge.state(one) is ProcessState.QUEUED
    assert "cannot seal" in (bridge.get(one).reason or "")
    assert not bridge.context(one).exists()
    known.append(("node2", "node3"))
    bridge.advance(RETRY)
    dispatcher.dispatch()
    assert "\n#SBATCH --exclude=node2,node3\n" in bridge.job(one).script


def test_a_runner_examines_by_itself_and_no_failure_of_it_holds_up_a_process(
    tmp_path: Path,
) -> None:
    bridge = Bridge(tmp_path)
    (tmp_path / "clinic").mkdir()
    clinic = Clinic(tmp_path / "clinic")
    runner = bridge.runner()
    runner.verbs = replace(runner.verbs, examiner=clinic.examiner)
    runner.step()
    assert [row.node for row in clinic.nodes.all()] == list(NODES)
    clinic.slurm.silent = True
    clinic.advance(HOUR)
    one = bridge.submit()
    runner.step()
    assert bridge.get(one).job_id is not None
