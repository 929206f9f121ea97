"""Slurm's text: recorded, and as hostile as a site's wrappers and users can make it."""

import tomllib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurmbridge.errors import (
    ReplyUnreadable,
    SchedulerUnavailable,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import ProcessState, SlurmState, classify
from slurmbridge.scheduler import JobReport, wire
from slurmbridge.shell import Reply

RECORDED = Path(__file__).parents[1] / "recorded/slurm-26.05"
PROGRAMS: dict[str, list[dict[str, Any]]] = tomllib.loads((RECORDED / "programs.toml").read_text())


def recorded(name: str) -> Reply:
    return Reply(0, (RECORDED / f"{name}.txt").read_text(), "")


def printed(text: str) -> Reply:
    return Reply(0, text, "")


def queue_job(line: str) -> JobReport:
    [report] = wire.read_queue(printed(line))
    return report


# --- sbatch ---


@pytest.mark.parametrize("case", PROGRAMS["sbatch"], ids=lambda case: str(case["what"]))
def test_what_sbatch_answered_is_understood(case: dict[str, Any]) -> None:
    reply = Reply(case["exit_code"], case["stdout"], case["stderr"].lstrip("\n"))
    if "job_id" in case:
        assert wire.read_submit(reply) == case["job_id"]
        return
    with pytest.raises((SubmissionRefused, SchedulerUnavailable)) as caught:
        wire.read_submit(reply)
    if case.get("not_sent"):
        assert isinstance(caught.value, SubmissionNotSent)
    else:
        assert isinstance(caught.value, SubmissionRefused)
        assert (str(caught.value), caught.value.retry) == (case["refused"], False)


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("17\n", 17),
        ("17", 17),
        ("17;cluster-2\n", 17),
        ("Welcome to Snellius, 2026!\n\n17\nYou have 3000 SBU left.\n", 17),
        ("*** 12 nodes are down ***\n17;alpha\n", 17),
        ("17 \r\n", 17),
    ],
)
def test_the_job_id_is_found_among_a_sites_own_words(text: str, job_id: int) -> None:
    assert wire.read_submit(printed(text)) == job_id


@pytest.mark.parametrize(
    "text",
    ["", "\n", "Submitted batch job 17\n", "17\n18\n", "17.0\n", "-17\n", "job 17", "17;a b"],
)
def test_without_a_single_job_id_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_submit(printed(text))


@pytest.mark.parametrize(
    "message",
    [
        "Unable to contact slurm controller (connect failure)",
        "slurm_persist_conn_open_without_init: failed to open persistent connection: "
        "Connection refused",
    ],
)
def test_what_never_reached_slurm_can_be_sent_again(message: str) -> None:
    assert type(wire.refusal(f"sbatch: error: {message}")) is SubmissionNotSent


@pytest.mark.parametrize(
    "message",
    [
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Communication connection failure",
        "Batch job submission failed: Transport endpoint is not connected",
        "Batch job submission failed: I/O error writing script/environment to file",
        "Batch job submission failed: Slurm backup controller in standby mode",
    ],
)
def test_after_a_silence_it_is_not_known_whether_the_job_exists(message: str) -> None:
    assert type(wire.refusal(f"sbatch: error: {message}")) is SchedulerUnavailable


@pytest.mark.parametrize(
    "message",
    [
        "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
        "user's size and/or time limits)",
        "QOSMaxSubmitJobPerUserLimit",
        "AssocGrpSubmitJobsLimit",
        "Batch job submission failed: Slurm temporarily unable to accept job",
        "MaxJobCount limit from slurm.conf exceeded",
        # --exclude names a node that has just left the cluster.
        "Batch job submission failed: Invalid node name specified",
    ],
)
def test_a_limit_that_time_resolves_says_so(message: str) -> None:
    error = wire.refusal(f"sbatch: error: {message}")
    assert isinstance(error, SubmissionRefused)
    assert error.retry


def test_a_refusal_without_words_still_says_how_sbatch_ended() -> None:
    with pytest.raises(SubmissionRefused, match="sbatch ended with 3"):
        wire.read_submit(Reply(3, "", ""))


def test_a_refusal_on_standard_output_is_read_too() -> None:
    with pytest.raises(SubmissionRefused, match="your project is closed"):
        wire.read_submit(Reply(1, "your project is closed\n", ""))


# --- squeue ---


def test_every_recorded_line_of_squeue_is_one_job() -> None:
    reply = recorded("squeue")
    reports = wire.read_queue(reply)
    assert [report.job_id for report in reports] == [
        int(line.split("|")[0]) for line in reply.stdout.splitlines()
    ]
    assert ProcessState.UNKNOWN not in {classify(report.status) for report in reports}


def test_a_recorded_job_that_ended_has_all_that_slurm_knew() -> None:
    [report] = [job for job in wire.read_queue(recorded("squeue")) if job.job_id == 56]
    assert report.job_name == "sb-contract-6a6ee356837b"
    assert (report.status.base, report.reason) == (SlurmState.FAILED, "NonZeroExitCode")
    assert (report.exit_code, report.signal, report.nodes) == (200, None, "node1")
    assert report.started_at == datetime(2026, 11, 22, 16, 54, 10, tzinfo=UTC)
    assert report.ended_at == datetime(2026, 11, 22, 16, 54, 11, tzinfo=UTC)
    assert report.source == "squeue"


def test_a_recorded_job_that_waits_has_no_times_and_no_nodes() -> None:
    [report] = [job for job in wire.read_queue(recorded("squeue")) if job.job_id == 70]
    assert (report.status.base, report.reason) == (SlurmState.PENDING, "PartitionDown")
    assert (report.started_at, report.ended_at, report.nodes) == (None, None, None)


def test_the_end_that_a_running_job_may_have_is_not_its_end() -> None:
    line = "7|RUNNING|0:0|2026-01-01T00:00:00|2026-01-02T00:00:00|n1|0|None|sb-x|\n"
    report = queue_job(line)
    assert report.started_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert report.ended_at is None


def test_the_start_that_is_planned_for_a_waiting_job_is_not_its_start() -> None:
    line = "7|PENDING|0:0|2026-01-01T00:00:00|2026-01-02T00:00:00||0|Priority|sb-x|\n"
    assert queue_job(line).started_at is None


@pytest.mark.parametrize("name", ["a|b", "|", "a|", "|7|RUNNING|", "x y", "ü", "'; rm -rf /", ""])
def test_separators_in_a_jobs_name_break_nothing(name: str) -> None:
    report = queue_job(f"7|PENDING|0:0|N/A|N/A||0|Priority|{name}|\n")
    assert (report.job_id, report.job_name, report.reason) == (7, name, "Priority")


def test_a_signal_is_kept_apart_from_the_exit_code() -> None:
    report = queue_job("7|FAILED|0:9|N/A|N/A|n1|0|None|x|")
    assert (report.exit_code, report.signal) == (0, 9)


@pytest.mark.parametrize("code", ["", "N/A", "1", ":", "a:b", "1:", "\N{SUPERSCRIPT TWO}:0"])
def test_an_exit_code_that_is_none_is_not_guessed(code: str) -> None:
    report = queue_job(f"7|FAILED|{code}|N/A|N/A|n1|0|None|x|")
    assert (report.exit_code, report.signal) == (None, None)


@pytest.mark.parametrize("state", ["BANANA", "", "COMPLETED,BANANA"])
def test_a_state_that_is_not_listed_is_kept_and_stays_open(state: str) -> None:
    report = queue_job(f"7|{state}|0:0|N/A|N/A|n1|0|None|x|")
    assert classify(report.status) is ProcessState.UNKNOWN
    assert ("BANANA" in str(report.status)) == ("BANANA" in state)


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_queue_holds_no_jobs(text: str) -> None:
    assert wire.read_queue(printed(text)) == []


@pytest.mark.parametrize(
    "line",
    ["Welcome!", "7", "7|RUNNING", "x|RUNNING|0:0|N/A|N/A|n1|0|None|x|", "|||||||", "7 RUNNING x"],
)
def test_a_line_of_another_form_is_passed_over_and_alone_it_is_no_queue(line: str) -> None:
    job = "7|RUNNING|0:0|N/A|N/A|n1|0|None|x|"
    for text in (f"{job}\n{line}\n", f"{line}\n{job}\n"):
        assert wire.read_queue(printed(text)) == [queue_job(job)]
    with pytest.raises(ReplyUnreadable, match="squeue printed"):
        wire.read_queue(printed(f"{line}\n"))


@pytest.mark.parametrize(
    "stderr", ["slurm_load_jobs error: Unable to contact slurm controller", ""]
)
def test_a_queue_that_could_not_be_read_is_not_an_empty_queue(stderr: str) -> None:
    with pytest.raises(SchedulerUnavailable, match="squeue ended with 1"):
        wire.read_queue(Reply(1, "", stderr))


fields = st.lists(st.text(st.characters(exclude_characters="\n")), min_size=8, max_size=9)
lines = st.one_of(st.text(), fields.map("|".join), fields.map(lambda f: "|".join(["7", *f[1:]])))


@settings(deadline=None)
@example("7|FAILED|0:0|tomorrow|N/A|n1|0|None|x")
@given(st.lists(lines).map("\n".join))
def test_whatever_squeue_prints_is_read_or_refused(text: str) -> None:
    try:
        reports = wire.read_queue(printed(text))
    except ReplyUnreadable:
        return
    assert all(isinstance(report.job_id, int) for report in reports)


@settings(deadline=None)
@example("7|FAILED|0:0|tomorrow|N/A|n1|0|None|x")
@given(st.lists(lines).map("\n".join))
def test_whatever_sacct_prints_is_read_or_refused(text: str) -> None:
    try:
        reports = wire.read_history(printed(text))
    except ReplyUnreadable:
        return
    assert all(isinstance(report.job_id, int) for report in reports)


@pytest.mark.parametrize("read", [wire.read_queue, wire.read_history])
@pytest.mark.parametrize(
    "line",
    [
        "7|RUNNING|0:0|yesterday|N/A|n1|0|None|x",
        "7|COMPLETED|0:0|2026-01-01T00:00:00|soon|n1|0|None|x",
        "\N{SUPERSCRIPT TWO}|RUNNING|0:0|N/A|N/A|n1|0|None|x",
    ],
)
def test_digits_and_times_that_only_look_like_ones_are_refused_as_unreadable(
    read: Any, line: str
) -> None:
    with pytest.raises(ReplyUnreadable):
        read(printed(line))


# --- sacct ---


def test_every_recorded_line_of_sacct_is_one_job() -> None:
    reports = wire.read_history(recorded("sacct"))
    assert len(reports) == 17
    assert {report.source for report in reports} == {"sacct"}
    assert ProcessState.UNKNOWN not in {classify(report.status) for report in reports}


def test_a_recorded_job_that_was_canceled_while_it_waited_never_started() -> None:
    [report] = [job for job in wire.read_history(recorded("sacct")) if job.job_id == 70]
    assert classify(report.status) is ProcessState.CANCELED
    assert (report.started_at, report.nodes) == (None, None)
    assert report.ended_at == datetime(2026, 11, 22, 16, 55, 10, tzinfo=UTC)


def test_of_a_requeued_job_the_last_record_counts() -> None:
    text = (
        "7|NODE_FAIL|0:0|2026-01-01T00:00:00|2026-01-01T01:00:00|n1|None|sb-x\n"
        "7|COMPLETED|0:0|2026-01-01T02:00:00|2026-01-01T03:00:00|n2|None|sb-x\n"
    )
    [report] = wire.read_history(printed(text))
    assert (report.status.base, report.nodes) == (SlurmState.COMPLETED, "n2")


def test_accounting_is_asked_from_a_moment_in_utc() -> None:
    summer = timezone(timedelta(hours=2))
    argv = wire.history(["sb-a", "sb-b"], datetime(2026, 7, 1, 1, 30, tzinfo=summer))
    assert "--starttime=2026-06-30T23:30:00" in argv
    assert "--name=sb-a,sb-b" in argv
    assert "--duplicates" in argv


def test_accounting_that_does_not_answer_is_not_an_empty_history() -> None:
    with pytest.raises(SchedulerUnavailable, match="sacct ended with 1"):
        wire.read_history(Reply(1, "", "sacct: error: slurmdbd: Connection refused"))


@pytest.mark.parametrize(
    "line", ["7.batch|COMPLETED|0:0|N/A|N/A|n1|None|x", "hello", "7|COMPLETED"]
)
def test_a_line_of_sacct_that_is_no_allocation_is_no_history(line: str) -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_history(printed(f"{line}\n"))


# --- scancel ---


def test_every_job_is_one_word_of_scancel() -> None:
    assert wire.cancel([3, 4]) == ("scancel", "3", "4")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(0, "", ""),
        Reply(1, "", "scancel: error: Kill job error on job id 7: Invalid job id specified\n"),
        Reply(
            1, "",
            "scancel: error: Kill job error on job id 7: "
            "Job/step already completing or completed\n",
        ),
    ],
)  # fmt: skip
def test_a_job_that_is_gone_already_is_canceled(reply: Reply) -> None:
    wire.read_cancel(reply)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(1, "", "scancel: error: Kill job error on job id 7: Access/permission denied\n"),
        Reply(1, "", "scancel: error: Unable to contact slurm controller (connect failure)\n"),
        Reply(1, "", ""),
        Reply(
            1, "",
            "scancel: error: Kill job error on job id 7: Invalid job id specified\n"
            "scancel: error: Kill job error on job id 8: Access/permission denied\n",
        ),
    ],
)  # fmt: skip
def test_a_cancel_that_did_not_happen_is_told(reply: Reply) -> None:
    with pytest.raises(SchedulerUnavailable, match="scancel failed"):
        wire.read_cancel(reply)


# --- sinfo, scontrol, sacctmgr ---


def test_the_recorded_cluster_is_understood() -> None:
    capability = wire.read_capability(
        recorded("scontrol-config"), recorded("sinfo"), recorded("sacctmgr")
    )
    assert (capability.cluster, capability.slurm_version) == ("slurmbridge", "26.05.5")
    assert capability.accounts == ("research", "teaching")
    assert capability.default_account == "research"
    main, short, parked = capability.partitions
    assert [str(gres) for gres in main.gres] == ["gpu:none:2"]
    assert (main.name, main.default, main.up) == ("main", True, True)
    assert (main.nodes, main.cpus_per_node, main.memory_mib_per_node) == (3, 4, 4000)
    assert (short.default, parked.up) == (False, False)
    assert [entry.time_limit_minutes for entry in (main, short, parked)] == [1440, 10, None]


def test_a_partition_of_several_kinds_of_nodes_is_one_partition_with_the_largest() -> None:
    [partition] = wire.read_partitions(
        "a*|up|2|16|64000+|1:00:00|(null)\na*|up|3|64+|1000|1:00:00|gpu:a:2(S:0-1)\n"
        "a*|up|1|8|1000|1:00:00|gpu:a:4,shard:no_consume:4G,gpu:b:1(S:0)\n"
    )
    assert (partition.nodes, partition.cpus_per_node) == (6, 64)
    assert [str(gres) for gres in partition.gres] == ["gpu:a:4", "gpu:b:1"]
    assert partition.memory_mib_per_node == 64000


def test_a_user_without_accounts_has_none() -> None:
    capability = wire.read_capability(recorded("scontrol-config"), recorded("sinfo"), printed("\n"))
    assert (capability.accounts, capability.default_account) == ((), None)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_cluster_of_which_one_part_does_not_answer_is_not_reported(broken: int) -> None:
    replies = [recorded("scontrol-config"), recorded("sinfo"), recorded("sacctmgr")]
    replies[broken] = Reply(1, "", "Unable to contact slurm controller (connect failure)")
    with pytest.raises(SchedulerUnavailable, match="ended with 1: Unable to contact"):
        wire.read_capability(*replies)


def test_a_configuration_without_a_cluster_name_is_unreadable() -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_capability(
            printed("SLURM_VERSION = 26.05.5\n"), recorded("sinfo"), recorded("sacctmgr")
        )


def test_the_nodes_of_the_recorded_cluster_are_in_each_of_its_partitions() -> None:
    nodes = wire.read_nodes(recorded("sinfo-nodes"))
    assert [node.name for node in nodes] == ["node1", "node2", "node3"]
    assert {node.partitions for node in nodes} == {("main", "parked", "short")}
    assert [node.up for node in nodes] == [True, True, False]


def test_a_capability_names_the_nodes_of_each_partition() -> None:
    capability = wire.read_capability(
        recorded("scontrol-config"),
        recorded("sinfo"),
        recorded("sacctmgr"),
        nodes=wire.read_nodes(recorded("sinfo-nodes")),
    )
    assert {entry.node_names for entry in capability.partitions} == {("node1", "node2", "node3")}


@pytest.mark.parametrize(
    "state", ["idle", "mixed", "allocated", "mixed-", "allocated+", "planned", "completing",
              "IDLE", "MIXED+PLANNED", "IDLE+CLOUD", "ALLOCATED+COMPLETING"],
)  # fmt: skip
def test_a_node_in_these_states_starts_jobs(state: str) -> None:
    assert wire.node_is_up(state)


@pytest.mark.parametrize(
    "state", ["idle*", "idle~", "mixed#", "idle%", "mixed$", "idle@", "down", "down*", "drained",
              "draining", "reserved", "maint", "fail", "unknown", "", "IDLE+DRAIN",
              "IDLE+NOT_RESPONDING", "MIXED+DRAIN+COMPLETING", "DOWN", "IDLE+MAINTENANCE"],
)  # fmt: skip
def test_a_node_in_any_other_state_does_not(state: str) -> None:
    assert not wire.node_is_up(state)


@pytest.mark.parametrize("line", ["main*|idle\n", "main*|idle|\n", "a|b|c|d\n"])
def test_a_line_of_nodes_of_another_form_is_unreadable(line: str) -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_nodes(printed(line))


def test_a_line_of_sinfo_of_another_form_is_unreadable() -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_partitions("main*|up|3|4|4000\n")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("0:30", 0),
        ("10:00", 10),
        ("1:00:00", 60),
        ("23:59:59", 1439),
        ("1-00:00:00", 1440),
        ("14-06:30:00", 20550),
        ("365-00:00:00", 525600),
    ],
)
def test_every_form_of_a_time_limit_is_read(text: str, minutes: int | None) -> None:
    assert wire.read_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1-", "1-1", "10", "-1:00", "1:2:3:4", " 1:00"])
def test_a_time_limit_of_no_form_is_unreadable(text: str) -> None:
    with pytest.raises(ReplyUnreadable):
        wire.read_minutes(text)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
@example(0, 0, 0, 0)
def test_a_time_limit_in_days_is_the_sum_of_its_parts(d: int, h: int, m: int, s: int) -> None:
    assert wire.read_minutes(f"{d}-{h:02}:{m:02}:{s:02}") == (d * 24 + h) * 60 + m
