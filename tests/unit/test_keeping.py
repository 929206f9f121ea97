"""When contexts are destroyed, and that it is told."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from slurmbridge.bridge.desk import new_ulid, ulid_time
from slurmbridge.bridge.keeping import Retention
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.model import job_name
from slurmbridge.scheduler import Submission
from tests.support.builders import Bridge, end

HOUR = timedelta(hours=1)
KEPT = Retention(failed=24 * HOUR, orphans=24 * HOUR)


@pytest.fixture
def keeping(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, retention=KEPT)


def told(bridge: Bridge, one: str) -> list[str]:
    return [event.detail for event in bridge.desk.events(one)]


def orphan(bridge: Bridge, name: str) -> Path:
    """A context of which the database knows nothing."""
    folder = bridge.contexts / name
    (folder / "input").mkdir(parents=True)
    (folder / "input/secret").write_text("secret")
    return folder


def at_birth(bridge: Bridge, name: str) -> None:
    """The clock stands at the moment in which an id was made."""
    bridge.advance(ulid_time(name) - bridge.clock())


def test_the_destruction_of_a_context_is_an_event_with_its_time(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.look()
    assert not bridge.context(one).exists()
    assert told(bridge, one)[-1] == "context destroyed"
    process = bridge.desk.inspect(one)
    assert process.state is ProcessState.COMPLETE
    assert process.context_destroyed_at == bridge.clock()
    assert process.context_until is None


def test_it_is_told_once_however_often_is_swept(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.look()
    bridge.leave(one, {"output/late": "left by a Runner that died"})
    assert bridge.verbs.keeper.sweep() == 1
    assert bridge.verbs.keeper.sweep() == 0
    assert told(bridge, one).count("context destroyed") == 1


def test_a_context_that_a_dying_runner_removed_is_told_of_later(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.desk.cancel(one, by="alice")
    end(bridge, one, SlurmState.CANCELLED)
    bridge.look()
    with bridge.database.write() as connection:
        connection.exec_driver_sql("UPDATE process SET context_destroyed_at = NULL")
    assert bridge.verbs.keeper.sweep() == 0
    assert told(bridge, one)[-1] == "its context is gone"
    assert bridge.desk.inspect(one).context_destroyed_at is not None


def test_a_runner_that_was_struck_off_notes_nothing(bridge: Bridge) -> None:
    one = bridge.submitted()
    end(bridge, one)
    bridge.look()
    with bridge.database.write() as connection:
        connection.exec_driver_sql("UPDATE process SET context_destroyed_at = NULL")
    bridge.strike()
    before = told(bridge, one)
    bridge.verbs.keeper.sweep()
    assert bridge.desk.inspect(one).context_destroyed_at is None
    assert told(bridge, one) == before
    bridge.new_verbs("runner-2").keeper.sweep()
    assert told(bridge, one)[-1] == "its context is gone"


def test_the_context_of_a_failed_process_is_kept_for_its_time(keeping: Bridge) -> None:
    one = keeping.submitted()
    end(keeping, one, SlurmState.FAILED, code=3)
    keeping.look()
    process = keeping.desk.inspect(one)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.context_until == keeping.clock() + 24 * HOUR
    assert process.context_destroyed_at is None
    assert f"its context is kept until {process.context_until:%Y-%m-%d %H:%M} UTC" in " ".join(
        told(keeping, one)
    )
    keeping.advance(24 * HOUR - timedelta(seconds=1))
    assert keeping.verbs.keeper.sweep() == 0
    assert keeping.context(one).exists()
    keeping.advance(timedelta(seconds=1))
    assert keeping.verbs.keeper.sweep() == 1
    assert not keeping.context(one).exists()
    assert told(keeping, one)[-1] == "context destroyed"


@pytest.mark.parametrize("canceled", [False, True])
def test_what_has_not_failed_is_not_kept(keeping: Bridge, canceled: bool) -> None:
    one = keeping.submitted()
    if canceled:
        keeping.desk.cancel(one, by="alice")
    end(keeping, one, SlurmState.CANCELLED if canceled else SlurmState.COMPLETED)
    keeping.look()
    assert not keeping.context(one).exists()
    assert keeping.desk.inspect(one).context_until is None


def test_a_context_without_a_process_is_destroyed_after_its_time(
    keeping: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    name = new_ulid()
    folder = orphan(keeping, name)
    at_birth(keeping, name)
    keeping.advance(24 * HOUR)
    assert keeping.verbs.keeper.sweep() == 0
    assert folder.exists()
    keeping.advance(timedelta(seconds=1))
    with caplog.at_level(logging.WARNING):
        assert keeping.verbs.keeper.sweep() == 1
    assert not folder.exists()
    assert name in caplog.text


def test_a_context_without_a_process_stays_as_long_as_slurm_has_its_job(keeping: Bridge) -> None:
    name = new_ulid()
    folder = orphan(keeping, name)
    at_birth(keeping, name)
    script = f"#!/bin/sh\n#SBATCH --job-name={job_name(name)}\n"
    keeping.slurm.submit([Submission(job_name(name), script)])
    keeping.advance(1000 * HOUR)
    assert keeping.verbs.keeper.sweep() == 0
    assert folder.exists()


def test_other_names_are_nobodys_contexts(keeping: Bridge) -> None:
    for name in ("lost+found", ".doctor", "0" * 25, "l" * 26, new_ulid().upper()):
        orphan(keeping, name)
    keeping.advance(1_000_000 * HOUR)
    assert keeping.verbs.keeper.sweep() == 0
    assert len(list(keeping.contexts.glob("*/input"))) == 5


def test_what_another_bridge_has_made_in_the_same_folder_is_left_there(
    keeping: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    (keeping.contexts / ".bridge").write_text("f" * 64)
    name = new_ulid()
    folder = orphan(keeping, name)
    at_birth(keeping, name)
    keeping.advance(1000 * HOUR)
    with caplog.at_level(logging.WARNING):
        assert keeping.verbs.keeper.sweep() == 0
        keeping.verbs.keeper.sweep()
    assert folder.exists()
    assert caplog.text.count("holds the contexts of another bridge") == 1


def test_the_time_of_an_id_is_that_of_its_making() -> None:
    assert ulid_time("01arz3ndektsv4rrffq69g5fav").isoformat() == "2016-07-30T23:54:10.259000+00:00"
