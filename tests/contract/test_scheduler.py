"""One contract for every way to Slurm: pyslurm, the commands, and the shipped fake."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from slurmbridge.errors import SubmissionNotSent, SubmissionRefused
from slurmbridge.lifecycle import ProcessState, SlurmState, classify
from slurmbridge.scheduler import SubmitOutcome
from tests.contract.scheduler_worlds import World, command_world, fake_world, native_world
from tests.support.cluster import until


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        pytest.param("commands", marks=pytest.mark.cluster),
        pytest.param("pyslurm", marks=pytest.mark.cluster),
    ],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        found = fake_world()
    else:
        cluster = request.getfixturevalue("cluster")
        found = {"commands": command_world, "pyslurm": native_world}[request.param](cluster)
    yield found
    found.scheduler.close()


@pytest.fixture
def name() -> str:
    return f"sb-contract-{secrets.token_hex(6)}"


def accepted(outcomes: list[SubmitOutcome]) -> list[int]:
    assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, int)]


def test_a_submitted_job_is_known_at_once_by_its_id_and_its_name(world: World, name: str) -> None:
    [job_id] = accepted(world.scheduler.submit([world.submission(name)]))
    report = world.report(job_id)
    assert report.job_name == name
    assert classify(report.status) is not ProcessState.UNKNOWN


def test_outcomes_come_in_order_and_are_told_as_they_are_known(world: World, name: str) -> None:
    wanted = [world.submission(f"{name}-{number}", partition="parked") for number in range(5)]
    wanted.insert(2, world.submission(f"{name}-bad", partition="nowhere"))
    told: list[tuple[int, SubmitOutcome]] = []
    outcomes = world.scheduler.submit(wanted, lambda index, outcome: told.append((index, outcome)))
    assert told == list(enumerate(outcomes))
    assert isinstance(outcomes.pop(2), SubmissionRefused)
    names = [world.report(job_id).job_name for job_id in accepted(outcomes)]
    assert names == [f"{name}-{number}" for number in range(5)]
    world.scheduler.cancel(accepted(outcomes))


@pytest.mark.parametrize(
    "directives",
    [{"partition": "nowhere"}, {"account": "nobody"}, {"partition": "short", "time": "11"}],
)
def test_what_slurm_refuses_leaves_no_job(
    world: World, name: str, directives: dict[str, str]
) -> None:
    [outcome] = world.scheduler.submit([world.submission(name, **directives)])
    assert isinstance(outcome, SubmissionRefused)
    assert not outcome.retry
    assert "\n" not in str(outcome)
    assert name not in {report.job_name for report in world.scheduler.jobs()}


def test_what_comes_too_late_is_not_sent(world: World, name: str) -> None:
    late = replace(world.submission(f"{name}-late"), seconds_left=lambda: 0.0)
    early = replace(world.submission(f"{name}-early", partition="parked"), seconds_left=lambda: 9.0)
    outcomes = world.scheduler.submit([late, early, late])
    assert [type(outcome) for outcome in outcomes] == [SubmissionNotSent, int, SubmissionNotSent]
    assert "stood still for too long" in str(outcomes[0])
    names = {report.job_name for report in world.scheduler.jobs()}
    assert (f"{name}-late" in names, f"{name}-early" in names) == (False, True)
    world.scheduler.cancel(accepted([outcomes[1]]))


@pytest.mark.parametrize("exit_code", [0, 1, 127, 200])
def test_a_job_ends_with_its_own_exit_code(world: World, name: str, exit_code: int) -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    [job_id] = accepted(world.scheduler.submit([world.submission(name, f"exit {exit_code}")]))
    world.let_end(job_id, exit_code)
    report = world.ended(job_id)
    assert report.status.base is (SlurmState.FAILED if exit_code else SlurmState.COMPLETED)
    assert report.exit_code in {exit_code, None}
    assert report.nodes
    assert report.started_at
    assert report.ended_at
    [record] = world.recorded(name, since)
    assert (record.job_id, record.exit_code) == (job_id, exit_code)


def test_accounting_finds_a_job_by_its_name_alone(world: World, name: str) -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    accepted(world.scheduler.submit([world.submission(f"{name}-other", partition="parked")]))
    [job_id] = accepted(world.scheduler.submit([world.submission(name, partition="parked")]))
    world.scheduler.cancel([job_id])
    assert [record.job_id for record in world.recorded(name, since)] == [job_id]
    assert world.scheduler.history([f"{name}-none"], since=since) == []


def test_a_waiting_job_can_be_canceled_and_again(world: World, name: str) -> None:
    [job_id] = accepted(world.scheduler.submit([world.submission(name, partition="parked")]))
    assert classify(world.report(job_id).status) is ProcessState.QUEUED
    world.scheduler.cancel([job_id])
    assert world.ended(job_id).status.base is SlurmState.CANCELLED
    world.scheduler.cancel([job_id])


def test_canceling_what_never_was_is_no_error(world: World) -> None:
    world.scheduler.cancel([4_000_000])
    world.scheduler.cancel([])


def test_the_cluster_says_what_it_offers(world: World) -> None:
    capability = world.scheduler.capability()
    assert capability.slurm_version.startswith("26.05")
    assert {"research", "teaching"} <= set(capability.accounts)
    main, short = capability.partition(None), capability.partition("short")
    assert main
    assert short
    assert (main.name, main.nodes, main.cpus_per_node) == ("main", 3, 4)
    assert short.time_limit_minutes == 10
    assert capability.partition("nowhere") is None
    assert {"node1", "node2", "node3"} == set(main.node_names)


def test_the_cluster_names_its_nodes_and_their_partitions(world: World) -> None:
    nodes = world.scheduler.nodes()
    assert [node.name for node in nodes] == ["node1", "node2", "node3"]
    for node in nodes:
        assert node.up
        assert {"main", "short", "parked"} <= set(node.partitions)


def test_a_job_that_is_bound_to_a_node_is_taken_and_one_for_no_node_is_not(
    world: World, name: str
) -> None:
    bound = world.submission(name, partition="parked", nodelist="node3")
    lost = world.submission(f"{name}-lost", partition="parked", nodelist="nowhere")
    without = world.submission(f"{name}-without", partition="parked", exclude="node1,node2")
    outcomes = world.scheduler.submit([bound, lost, without])
    assert isinstance(outcomes.pop(1), SubmissionRefused)
    world.scheduler.cancel(accepted(outcomes))


def test_what_is_on_its_way_to_accounting_arrives(world: World, name: str) -> None:
    since = datetime.now(UTC) - timedelta(minutes=5)
    [job_id] = accepted(world.scheduler.submit([world.submission(name, partition="parked")]))
    assert world.scheduler.backlog() >= 0
    world.scheduler.cancel([job_id])
    until("empty backlog", lambda: world.scheduler.backlog() == 0)
    [record] = world.recorded(name, since)
    assert record.status.base is SlurmState.CANCELLED


def test_what_waits_is_withdrawn_and_what_runs_is_not(world: World, name: str) -> None:
    waits, runs = accepted(
        world.scheduler.submit(
            [
                world.submission(name, partition="parked"),
                world.submission(f"{name}-runs", "sleep 120"),
            ]
        )
    )
    world.running(runs)
    world.scheduler.withdraw([waits, runs, 4_000_000])
    assert world.ended(waits).status.base is SlurmState.CANCELLED
    assert classify(world.report(runs).status) is ProcessState.RUNNING
    world.scheduler.withdraw([])
    world.scheduler.cancel([runs])
    world.ended(runs)
    world.scheduler.withdraw([waits, runs])


def test_who_does_not_listen_is_killed(world: World, name: str) -> None:
    deaf = world.submission(name, "trap '' TERM; sleep 120 & while :; do wait; done")
    [job_id] = accepted(world.scheduler.submit([deaf]))
    world.running(job_id)
    # Slurm may let it live for as long as KillWait says, all the same: 30 s.
    world.scheduler.cancel([job_id], kill=True)
    assert classify(world.ended(job_id).status).final
    world.scheduler.cancel([job_id], kill=True)


def test_how_often_a_job_was_sent_back_is_counted(world: World, name: str) -> None:
    [job_id] = accepted(world.scheduler.submit([world.submission(name, "sleep 120")]))
    assert world.running(job_id).restarts == 0
    world.requeue(job_id)
    until("requeue", lambda: world.report(job_id).restarts == 1)
    world.scheduler.cancel([job_id])
    world.ended(job_id)


def test_the_start_of_a_job_is_expected_until_it_starts(world: World, name: str) -> None:
    outcomes = world.scheduler.submit([world.submission(name, "sleep 120")])
    [runs] = accepted(outcomes)
    assert world.running(runs).expected_start is None
    [waits] = accepted(world.scheduler.submit([world.submission(f"{name}-w", partition="parked")]))
    at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
    world.expect(waits, at)
    report = world.report(waits)
    assert report.expected_start == at
    assert report.started_at is None
    world.scheduler.cancel([runs, waits])
    assert world.ended(waits).expected_start is None
