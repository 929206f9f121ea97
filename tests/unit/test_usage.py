"""What accounting says of a job's use: word for word, or nothing, and never of another's step."""

from pathlib import Path

import pytest

from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable, ShellUnavailable
from slurmbridge.scheduler import wire
from slurmbridge.scheduler.commands import job_usage
from slurmbridge.shell import Command, Reply

RECORDED = Path(__file__).parents[1] / "recorded/slurm-26.05"


def recorded(name: str) -> Reply:
    return Reply(0, (RECORDED / f"{name}.txt").read_text(), "")


def printed(text: str) -> Reply:
    return Reply(0, text, "")


class OneReply:
    """A shell that answers every command alike, or raises."""

    def __init__(self, reply: Reply | Exception) -> None:
        self.reply = reply
        self.asked: list[Command] = []

    def run(self, command: Command) -> Reply:
        self.asked.append(command)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def test_sacct_is_asked_for_one_job_and_for_every_field_that_is_read() -> None:
    argv = wire.usage(17)
    assert argv[0] == "sacct"
    assert {"--noheader", "--parsable2", "--jobs=17"} <= set(argv)
    [fields] = [word.removeprefix("--format=") for word in argv if word.startswith("--format=")]
    assert fields.split(",") == [*wire.USAGE, *wire.STEP_USAGE]
    # The steps are asked for too: only they have a MaxRSS.
    assert "--allocations" not in argv


def test_a_job_with_several_steps_is_told_by_its_allocation_and_its_batch_step() -> None:
    reply = recorded("sacct-usage")
    assert len(reply.stdout.splitlines()) == 5
    assert wire.read_usage(reply) == {
        "JobID": "454",
        "JobName": "sb-usage",
        "Account": "research",
        "Partition": "short",
        "QOS": "normal",
        "State": "COMPLETED",
        "ExitCode": "0:0",
        "Submit": "2026-11-22T23:16:49",
        "Start": "2026-11-22T23:16:49",
        "End": "2026-11-22T23:16:50",
        "ElapsedRaw": "1",
        "NNodes": "1",
        "NodeList": "node1",
        "ReqTRES": "billing=1,cpu=1,mem=200M,node=1",
        "AllocTRES": "billing=1,cpu=1,mem=200M,node=1",
        "TotalCPU": "00:00.181",
        "MaxRSS": "5184K",
        "AveCPU": "00:00:00",
    }


def test_a_job_that_runs_has_no_peak_yet() -> None:
    found = wire.read_usage(recorded("sacct-usage-running"))
    assert (found["State"], found["End"]) == ("RUNNING", "Unknown")
    assert not set(wire.STEP_USAGE) & set(found)


def test_the_order_of_the_lines_says_nothing() -> None:
    reply = recorded("sacct-usage")
    turned = "".join(reversed(reply.stdout.splitlines(keepends=True)))
    assert wire.read_usage(printed(turned)) == wire.read_usage(reply)


def test_of_a_job_that_accounting_does_not_know_nothing_is_said() -> None:
    # Slurm 26.05.5 printed nothing for a job that there is not, and ended with 0.
    assert wire.read_usage(printed("")) == {}


def test_fields_that_are_empty_are_left_out() -> None:
    empty = "|".join(["7", *[""] * (len(wire.USAGE) + len(wire.STEP_USAGE) - 1)])
    assert wire.read_usage(printed(f"{empty}\n")) == {"JobID": "7"}


@pytest.mark.parametrize(
    "text",
    [
        "garbage\n",
        "\n",
        "7|sb-x\n",
        "sacct: warning: something\n7|sb-x\n",
        (RECORDED / "sacct-usage.txt").read_text().replace("\n", "|more\n"),
        # A job of somebody else, whose name has the separator in it.
        (RECORDED / "sacct-usage-odd-name.txt").read_text(),
    ],
)
def test_what_is_not_understood_is_not_guessed(text: str) -> None:
    with pytest.raises(ReplyUnreadable, match="sacct printed"):
        wire.read_usage(printed(text))


def test_a_sacct_that_fails_does_not_mean_an_unknown_job() -> None:
    # The first are Slurm 26.05.5's words.
    for words in ("sacct: fatal: Bad job/step specified: abc", ""):
        with pytest.raises(SchedulerUnavailable, match="sacct ended with 1"):
            wire.read_usage(Reply(1, "", words))


def test_a_job_is_asked_about_within_the_time_that_is_given() -> None:
    shell = OneReply(recorded("sacct-usage"))
    assert job_usage(shell, 454, timeout_seconds=3)["MaxRSS"] == "5184K"
    assert shell.asked == [Command(wire.usage(454), timeout_seconds=3)]


def test_a_shell_that_does_not_answer_is_slurm_s_silence() -> None:
    shell = OneReply(ShellUnavailable("no such program: sacct"))
    with pytest.raises(SchedulerUnavailable, match="no such program"):
        job_usage(shell, 1, timeout_seconds=1)
