"""Several tasks under one sbseal: what each gets, and whose end is the end of all."""

import os
import signal

import pytest

from tests.support.box import AS_NOBODY, LIMITS, PID_NAMESPACE, first_child, wait_for
from tests.support.sealing import REST, each_form
from tests.support.sealing import SealBox as Box

SLURM = ["PATH=/usr/bin:/bin", "SLURM_NTASKS=3", "SLURM_PROCID=0", "SLURM_LOCALID=0"]


def tasks(box: Box, count: int, environment: list[str]) -> Box:
    box.tasks = f"tasks={count}"
    box.set_environment(environment)
    return box


@each_form
def test_each_task_gets_its_number_and_a_process_group(box: Box, form: str) -> None:
    box.refused = form
    # At once, so that no other task's words come between.
    script = "words=$(cut -d' ' -f1,5 /proc/$$/stat; tr '\\0' ';' </proc/$$/environ); echo $words"
    end = tasks(box, 3, ["A=SLURM_PROCID=0", *SLURM, "SLURM_PROCIDS=0"]).run(["sh", "-c", script])
    assert (end.code, end.err) == (0, b"")
    told = [line.split(" ", 2) for line in end.out.decode().splitlines()]
    assert all(pid == group for pid, group, _ in told)
    assert len({pid for pid, _, _ in told}) == 3
    assert {variables for _, _, variables in told} == {
        f"A=SLURM_PROCID=0;{SLURM[0]};{SLURM[1]};SLURM_PROCID={task};SLURM_LOCALID={task};"
        "SLURM_PROCIDS=0;"
        for task in range(3)
    }


def test_one_task_gets_its_environment_as_it_is(box: Box) -> None:
    end = tasks(box, 1, ["SLURM_PROCID=7", "SLURM_LOCALID=x"]).run(["/usr/bin/env"])
    assert end.out == b"SLURM_PROCID=7\nSLURM_LOCALID=x\n"


def test_a_thousand_tasks_run(box: Box) -> None:
    script = 'echo $SLURM_PROCID >>"$0"'
    end = tasks(box, 1024, SLURM).run(["sh", "-c", script, str(box.marker)], prefix=PID_NAMESPACE)
    assert (end.code, end.err) == (0, b"")
    assert sorted(map(int, box.marker.read_text().split())) == list(range(1024))


def test_it_ends_well_when_all_tasks_have(box: Box) -> None:
    script = "sleep 0.0$((2 - SLURM_PROCID)); echo $SLURM_PROCID"
    end = tasks(box, 3, SLURM).run(["bash", "-c", script], prefix=PID_NAMESPACE)
    assert (end.code, sorted(end.out.split())) == (0, [b"0", b"1", b"2"])


@pytest.mark.parametrize(("ends", "code"), [("exit 7", 7), ("kill -KILL $$", 137)])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_task_that_fails_ends_all_at_once(box: Box, failing: int, ends: str, code: int) -> None:
    # The others would hold standard output open for a minute.
    script = f"[ $SLURM_PROCID = {failing} ] || exec sleep 60; sleep 0.05; {ends}"
    end = tasks(box, 3, SLURM).run(["sh", "-c", script], prefix=PID_NAMESPACE)
    assert end.code == code


def test_a_task_that_has_ended_well_ends_nobody(box: Box) -> None:
    script = "[ $SLURM_PROCID = 0 ] || { sleep 0.1; [ $SLURM_PROCID = 1 ] || exit 5; }"
    end = tasks(box, 3, SLURM).run(["sh", "-c", script], prefix=PID_NAMESPACE)
    assert end.code == 5


def test_a_signal_goes_to_every_task(box: Box) -> None:
    folder = box.marker.parent

    def meanwhile(pid: int) -> None:
        for task in range(3):
            wait_for(folder / str(task))
        os.kill(first_child(pid), signal.SIGTERM)

    script = (
        f"trap 'echo $SLURM_PROCID; exit 0' TERM; : >{folder}/$SLURM_PROCID; "
        "while :; do sleep 0.02; done"
    )
    box = tasks(box, 3, SLURM)
    end = box.run(["bash", "-c", script], prefix=PID_NAMESPACE, meanwhile=meanwhile)
    assert (end.code, sorted(end.out.split())) == (0, [b"0", b"1", b"2"])


def test_no_task_starts_when_one_cannot(box: Box) -> None:
    prefix = (*PID_NAMESPACE, *AS_NOBODY)
    arguments = (str(box.folder), "nproc=20", *LIMITS[1:], "tasks=100", REST[1])
    end = box.run(prefix=prefix, arguments=arguments)
    assert (end.code, box.marker.exists()) == (78, False)
    assert b"fork: Resource temporarily unavailable" in end.err
