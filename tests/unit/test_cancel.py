"""Cancels: of what waits, runs, is in doubt, or has ended; and contexts that nobody needs."""

from datetime import timedelta

import pytest

from slurmbridge.lifecycle import ProcessState
from tests.support.builders import (
    ABSENCE,
    RETRY,
    Bridge,
    Listed,
    crash_before_submission,
    end,
)

SECOND = timedelta(seconds=1)


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
    bridge.advance(SECOND)
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
    assert bridge.verbs.keeper.sweep() == 1
    assert not bridge.context(one).exists()


def test_a_cancel_of_what_never_reached_slurm_leaves_no_context(bridge: Bridge) -> None:
    one = crash_before_submission(bridge)
    bridge.desk.cancel(one, by="alice")
    bridge.advance(SECOND)
    bridge.look()
    bridge.advance(ABSENCE)
    bridge.look()
    bridge.verbs.dispatcher.dispatch()
    bridge.verbs.keeper.sweep()
    assert bridge.state(one) is ProcessState.CANCELED
    assert not bridge.context(one).exists()


def test_what_has_not_ended_and_what_is_not_known_is_not_swept(bridge: Bridge) -> None:
    one, two = bridge.submitted(), bridge.submitted()
    (bridge.contexts / "lost+found").mkdir()
    end(bridge, one)
    bridge.verbs.observer.observe()
    assert bridge.verbs.keeper.sweep() == 0
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
