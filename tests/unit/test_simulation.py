"""The simulation itself: the same seed tells the same story, and kept seeds stay mended."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.testing.scheduler import FakeJob
from slurmbridge.testing.simulation import Finding, Outcome, Simulator, run_seed
from slurmbridge.testing.simulation.stage import Beside, Ended, Program, Stage, Turnstile
from slurmbridge.testing.simulation.truth import Life, Told, Truth, Violation, check_end
from slurmbridge.testing.simulation.weather import CALM, forecast
from tests.contract.scheduler_worlds import fake_world

# Each broke a rule once; what was wrong is in test_found.py.
KEPT = (1074, 1100, 2063, 900021)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as found:
        yield found


@pytest.mark.parametrize("seed", KEPT)
def test_what_was_found_once_stays_mended(simulator: Simulator, seed: int) -> None:
    found = run_seed(simulator, seed)
    assert isinstance(found, Outcome), found.text
    assert found.lifetimes


def test_a_seed_tells_the_same_story_each_time(simulator: Simulator) -> None:
    first, second = (run_seed(simulator, 11) for _ in range(2))
    assert isinstance(first, Outcome)
    assert first == second


def test_another_seed_tells_another_story(simulator: Simulator) -> None:
    first, second = (run_seed(simulator, seed) for seed in (12, 13))
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert first.digest != second.digest


def test_a_finding_says_how_to_replay_it(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seed: int, _listener: object) -> Outcome:
        violation = Violation("lost", "0" * 26, "nobody knows")
        violation.add_note("   1.000 s  step 7  runner0  write")
        raise violation

    monkeypatch.setattr(simulator, "run", run)
    found = run_seed(simulator, 99)
    assert isinstance(found, Finding)
    assert found.text.splitlines() == [
        f"seed 99: lost: {'0' * 26}: nobody knows",
        "   1.000 s  step 7  runner0  write",
        "replay: ci/simulate --seed 99 --verbose",
    ]


# --- the stage ---


def test_threads_go_on_in_the_order_of_their_time() -> None:
    stage, told = Stage(1), list[str]()

    def walk(name: str, seconds: float) -> None:
        for number in range(3):
            stage.pass_time(seconds)
            told.append(f"{name}{number} at {stage.now:.0f}")

    stage.spawn(Program("a"), lambda: walk("a", 2))
    stage.spawn(Program("b"), lambda: walk("b", 3))
    stage.run_until(100)
    assert told == ["a0 at 2", "b0 at 3", "a1 at 4", "b1 at 6", "a2 at 6", "b2 at 9"]
    stage.close()


def test_a_dead_program_does_nothing_more_in_any_of_its_threads() -> None:
    stage, told = Stage(1), list[str]()
    program = Program("a")

    def work() -> None:
        try:
            stage.pass_time(10)
            told.append("never")
        except Exception:
            told.append("caught")
        finally:
            with pytest.raises(Ended):
                stage.pass_time(0)
            told.append("unwound")

    for _ in range(2):
        stage.spawn(program, work)
    stage.at(5, lambda: stage.kill(program))
    stage.run_until(100)
    assert told == ["unwound", "unwound"]
    assert program.threads == []
    stage.close()


def test_a_frozen_program_goes_on_when_it_is_woken() -> None:
    stage, told = Stage(1), list[float]()
    program = Program("a")

    def work() -> None:
        stage.pass_time(2)
        told.append(stage.now)

    def freeze() -> None:
        program.frozen_until = 50

    stage.spawn(program, work)
    stage.at(1, freeze)
    stage.run_until(100)
    assert told == [50]
    stage.close()


def test_what_is_done_beside_is_waited_for() -> None:
    stage, told = Stage(1), list[object]()

    def slowly() -> str:
        stage.pass_time(5)
        return "done"

    def work() -> None:
        with Beside(stage) as pool:
            promise = pool.submit(slowly)
            stage.pass_time(1)
            told.append(stage.now)
            told.append(promise.result())
            wrong = pool.submit(lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                wrong.result()
        told.append(stage.now)

    stage.spawn(Program("a"), work)
    stage.run_until(100)
    assert told == [1, "done", 5]
    stage.close()


def test_who_waits_at_a_turnstile_lets_the_others_go_on() -> None:
    stage, told = Stage(1), list[str]()
    lock = Turnstile(stage)

    def work(name: str) -> None:
        with lock:
            told.append(f"{name} in")
            stage.pass_time(5)
            told.append(f"{name} out")

    for name in "ab":
        stage.spawn(Program(name), partial(work, name))
    stage.run_until(100)
    assert told == ["a in", "a out", "b in", "b out"]
    stage.close()


def test_what_nobody_catches_is_told_to_the_one_who_looks_on() -> None:
    stage = Stage(1)
    stage.spawn(Program("a"), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stage.run_until(100)
    stage.close()


# --- the weather ---


def test_no_two_seeds_have_the_same_weather_and_none_has_all_of_it() -> None:
    found = [forecast(Stage(seed).rng) for seed in range(50)]
    assert len(set(found)) == 50
    for name in CALM.__dataclass_fields__:
        values = {getattr(weather, name) for weather in found}
        assert 0.0 in values
        assert len(values) == 3


# --- the judge ---


def life(**changes: object) -> Life:
    world = fake_world()
    [job_id] = world.scheduler.submit([world.submission("sb-x")])
    assert isinstance(job_id, int)
    job: FakeJob = world.scheduler.job("sb-x")  # type: ignore[attr-defined]
    made = Life("x", job, Path("/x"))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def told(state: ProcessState, exit_code: int | None = None) -> Told:
    return Told("x", state, exit_code, None, {})


_RAN = {"claimed": True, "ran": True}


@pytest.mark.parametrize(
    ("changes", "state", "canceled"),
    [
        ({**_RAN, "end": SlurmState.COMPLETED, "exit_code": 0}, ProcessState.COMPLETE, False),
        ({**_RAN, "end": SlurmState.COMPLETED, "exit_code": 0}, ProcessState.COMPLETE, True),
        ({**_RAN, "end": SlurmState.FAILED, "exit_code": 3}, ProcessState.EXECUTOR_ERROR, False),
        ({**_RAN, "end": SlurmState.CANCELLED, "exit_code": 143}, ProcessState.CANCELED, True),
        ({**_RAN, "end": SlurmState.NODE_FAIL}, ProcessState.SYSTEM_ERROR, False),
        ({**_RAN, "end": SlurmState.PREEMPTED}, ProcessState.PREEMPTED, False),
        ({**_RAN, "vanished": True}, ProcessState.SYSTEM_ERROR, False),
        ({**_RAN, "vanished": True, "exit_code": 0}, ProcessState.COMPLETE, False),
        ({"end": SlurmState.CANCELLED}, ProcessState.CANCELED, True),
    ],
)
def test_an_end_is_judged_by_what_really_happened(
    changes: dict[str, object], state: ProcessState, canceled: bool
) -> None:
    lives = [life(**changes)]
    for other in ProcessState:
        code = 0 if other is ProcessState.COMPLETE else None
        if other is state:
            check_end(told(other, code), lives, canceled=canceled, ran=1)
        elif not (canceled and not lives[0].claimed and other is ProcessState.CANCELED):
            with pytest.raises(Violation):
                check_end(told(other, code), lives, canceled=canceled, ran=1)


def test_a_job_that_found_no_context_is_no_end() -> None:
    lives = [life(end=SlurmState.FAILED)]
    with pytest.raises(Violation, match="lost"):
        check_end(told(ProcessState.SYSTEM_ERROR), lives, canceled=False, ran=0)


def test_what_nobody_canceled_was_not_canceled() -> None:
    lives = [life(**_RAN, end=SlurmState.CANCELLED, exit_code=143)]
    with pytest.raises(Violation, match="wrong end"):
        check_end(told(ProcessState.CANCELED), lives, canceled=False, ran=1)
    lives[0].by_slurm = True
    check_end(told(ProcessState.CANCELED), lives, canceled=False, ran=1)


def test_a_program_runs_once() -> None:
    truth, one = Truth(), life()
    truth.ran(one)
    with pytest.raises(Violation, match="run twice"):
        truth.ran(one)
