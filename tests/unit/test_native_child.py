"""What a script's #SBATCH lines mean to pyslurm, and what the child makes of pyslurm's answers."""

import math
import os
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from slurmbridge.scheduler.native_child import (
    ATTRIBUTES,
    JOB_ENVIRONMENT,
    cancel,
    read_directives,
    report,
    report_nodes,
    submit,
)
from slurmbridge.script import DEFAULT_TEMPLATES

HEAD = "#!/bin/bash\n#SBATCH --job-name=sb-1\n"


class PyslurmError(Exception):
    """As pyslurm's own."""


class RPCError(PyslurmError):
    """As pyslurm's own."""


class FakePyslurm:
    """The part of pyslurm that the child uses. `answers` are job ids or errors, in order."""

    PyslurmError = PyslurmError
    RPCError = RPCError

    def __init__(self, answers: list[Any], jobs: list[Any] | None = None) -> None:
        self._answers = list(answers)
        self.submitted: list[dict[str, Any]] = []
        self.canceled: list[int] = []
        self.Jobs = SimpleNamespace(load=lambda: dict(enumerate(jobs or [])))

    def _answer(self) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def JobSubmitDescription(self, **attributes: Any) -> Any:
        self.submitted.append(attributes)
        return SimpleNamespace(submit=self._answer)

    def Job(self, job_id: int) -> Any:
        self.canceled.append(job_id)
        return SimpleNamespace(cancel=self._answer)


WITH_DIRECTIVES = ("parts/directives.j2", "doctor.sbatch.j2", "requirements.sbatch.j2")


def test_every_directive_of_the_templates_has_an_attribute() -> None:
    text = "".join((DEFAULT_TEMPLATES / name).read_text() for name in WITH_DIRECTIVES)
    options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE)
    assert len(options) == len([line for line in text.splitlines() if line.startswith("#SBATCH")])
    assert set(options) == set(ATTRIBUTES)


def test_no_template_but_the_directives_holds_a_directive() -> None:
    others = set(DEFAULT_TEMPLATES.rglob("*.j2")) - {DEFAULT_TEMPLATES / n for n in WITH_DIRECTIVES}
    assert not [path for path in others if "#SBATCH" in path.read_text()]


def test_each_directive_becomes_its_attribute() -> None:
    text = HEAD + (
        "#SBATCH --account=research\n#SBATCH --partition=main\n#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n#SBATCH --cpus-per-task=4\n#SBATCH --mem=512M\n#SBATCH --time=60\n"
        "#SBATCH --chdir=/c/1\n#SBATCH --output=/c/1/job.log\n#SBATCH --open-mode=append\n"
        "#SBATCH --no-requeue\n#SBATCH --export=NIL\n#SBATCH --nodelist=n1\n"
        "#SBATCH --exclude=n2,n3\n"
    )
    assert read_directives(text) == {
        "required_nodes": "n1",
        "excluded_nodes": "n2,n3",
        "name": "sb-1",
        "account": "research",
        "partitions": "main",
        "nodes": "1",
        "ntasks": 1,
        "cpus_per_task": 4,
        "memory_per_node": "512M",
        "time_limit": "0-1:0:0",
        "working_directory": "/c/1",
        "standard_output": "/c/1/job.log",
        "log_files_open_mode": "append",
        "is_requeueable": False,
        "environment": JOB_ENVIRONMENT,
    }


@pytest.mark.parametrize(
    ("minutes", "limit"),
    [(1, "0-0:1:0"), (1439, "0-23:59:0"), (1440, "1-0:0:0"), (4000, "2-18:40:0")],
)
def test_minutes_become_days_hours_and_minutes(minutes: int, limit: str) -> None:
    assert read_directives(f"{HEAD}#SBATCH --time={minutes}\n")["time_limit"] == limit


def test_a_signal_before_the_time_limit_goes_to_the_script_alone() -> None:
    found = read_directives(f"{HEAD}#SBATCH --signal=B:USR2@300\n")["signal"]
    assert found == {"signal": 12, "time": 300, "batch_only": True}


@pytest.mark.parametrize(
    "line",
    [
        "#SBATCH --gpus=1",
        "#SBATCH -N 1",
        "#SBATCH --mem 512M",
        "#SBATCH",
        "#SBATCH --comment=a b",
        "#SBATCHX --mem=1",
        "#SBATCH --Mem=1",
    ],
)
def test_a_directive_that_is_not_known_is_refused_and_named(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        read_directives(f"{HEAD}{line}\n")


@pytest.mark.parametrize("value", ["=ALL", "=NONE", "=PATH", ""])
def test_no_job_gets_the_environment_of_the_bridge(value: str) -> None:
    with pytest.raises(ValueError, match="--export=NIL"):
        read_directives(f"{HEAD}#SBATCH --export{value}\n")


def test_directives_after_the_first_command_are_none() -> None:
    text = f"{HEAD}# a comment\n\nset -e\n#SBATCH --account=other\n#SBATCH --gres=gpu:1\n"
    assert read_directives(text) == {"name": "sb-1", "environment": JOB_ENVIRONMENT}


def test_directives_after_comments_and_empty_lines_count() -> None:
    assert read_directives(f"{HEAD}\n# a comment\n\n#SBATCH --nodes=1\n")["nodes"] == "1"


def jobs(*scripts: str) -> list[tuple[str, float]]:
    """To be sent whenever it can be done."""
    return [(script, math.inf) for script in scripts]


def test_scripts_are_submitted_in_order_with_their_own_text() -> None:
    pyslurm = FakePyslurm([11, 12])
    second = HEAD.replace("sb-1", "sb-2")
    assert list(submit(pyslurm, jobs(HEAD, second))) == [{"job_id": 11}, {"job_id": 12}]
    assert [entry["script"] for entry in pyslurm.submitted] == [HEAD, second]
    assert [entry["name"] for entry in pyslurm.submitted] == ["sb-1", "sb-2"]


def test_after_a_silence_the_rest_is_not_even_tried() -> None:
    silence = "Unable to contact slurm controller (connect failure)"
    pyslurm = FakePyslurm([11, RPCError(silence)])
    answers = list(submit(pyslurm, jobs(*[HEAD] * 4)))
    assert answers == [
        {"job_id": 11},
        {"error": silence},
        {"skipped": silence},
        {"skipped": silence},
    ]
    assert len(pyslurm.submitted) == 2


def test_after_a_refusal_the_rest_is_tried() -> None:
    pyslurm = FakePyslurm([RPCError("Invalid partition name specified"), 12])
    answers = list(submit(pyslurm, jobs(HEAD, HEAD)))
    assert answers == [{"error": "Invalid partition name specified"}, {"job_id": 12}]


def test_what_comes_too_late_is_not_sent() -> None:
    pyslurm = FakePyslurm([11])
    late, early = time.monotonic() - 1, time.monotonic() + 60
    answers = list(submit(pyslurm, [(HEAD, late), (HEAD, early), (HEAD, late)]))
    assert answers == [{"late": True}, {"job_id": 11}, {"late": True}]
    assert len(pyslurm.submitted) == 1


def test_a_script_that_is_not_understood_is_told_and_the_rest_is_tried() -> None:
    pyslurm = FakePyslurm([12])
    answers = list(submit(pyslurm, jobs(f"{HEAD}#SBATCH --gpus=1\n", HEAD)))
    assert "gpus" in answers[0]["invalid"]
    assert answers[1] == {"job_id": 12}


def test_only_jobs_of_this_user_are_told() -> None:
    def job(number: int, user: int) -> Any:
        return SimpleNamespace(
            id=number, name=f"sb-{number}", state="RUNNING", state_reason="None",
            allocated_nodes="n1", start_time=1, end_time=2, requeue_count=0, user_id=user,
        )  # fmt: skip

    me = os.getuid()
    pyslurm = FakePyslurm([], [job(1, me), job(2, me + 1), job(3, me)])
    [answer] = report(pyslurm, None)
    assert [entry["job_id"] for entry in answer["jobs"]] == [1, 3]
    assert answer["jobs"][0]["job_name"] == "sb-1"


def test_nodes_are_told_with_their_states_and_partitions_with_their_nodes() -> None:
    def partition(name: str, nodes: str | None, hidden: bool = False) -> Any:
        return SimpleNamespace(name=name, nodes=nodes, is_hidden=hidden)

    def loaded(*entries: Any) -> Any:
        return SimpleNamespace(load=lambda: {entry.name: entry for entry in entries})

    pyslurm = SimpleNamespace(
        Nodes=loaded(SimpleNamespace(name="n1", state="IDLE+DRAIN")),
        Partitions=loaded(
            partition("a", "n1,n2"), partition("b", None), partition("c", "n1", hidden=True)
        ),
        utils=SimpleNamespace(nodelist_from_range_str=lambda text: text.split(",")),
    )
    [answer] = report_nodes(pyslurm, None)
    assert answer == {
        "nodes": {"n1": "IDLE+DRAIN"},
        "partitions": {"a": ["n1", "n2"], "b": [""]},
    }


def test_of_several_cancels_only_those_that_failed_have_an_error() -> None:
    pyslurm = FakePyslurm(
        [
            None,
            RPCError("Job/step already completing or completed"),
            RPCError("Invalid job id specified"),
            RPCError("Access/permission denied"),
        ]
    )
    answers = list(cancel(pyslurm, [1, 2, 3, 4]))
    assert answers == [{}, {}, {}, {"error": "Access/permission denied"}]
    assert pyslurm.canceled == [1, 2, 3, 4]
