"""Ends that come without their time, of another job, or where a store is missing."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from slurmbridge.lifecycle import Phase, ProcessState, SlurmState
from tests.support.builders import ABSENCE, LEASE, Bridge, end

SECOND = timedelta(seconds=1)


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
    claimed = bridge.processes.claim(Phase.COLLECTING, runner="x", limit=1, now=now, lease=LEASE)
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
