"""Installing requirements, with a Slurm and files in memory: who asks, who waits, what is told."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.requirements import (
    LOOK,
    MENDING,
    PASSING,
    SMALL,
    UNKNOWN,
    UNSEEN,
    unfit,
)
from slurmbridge.errors import InvalidProcess, RequirementsAwaited, StagingFailed
from slurmbridge.lifecycle import SlurmState
from slurmbridge.model import NodeReadiness
from slurmbridge.store import InstallationState
from tests.support.builders import Crash, HookedScheduler
from tests.support.databases import fresh_database
from tests.support.specs import CAPABILITY, IMAGE, spec
from tests.support.works import ALPHA, FOLDER, NO_PACKAGE, REPORT, SHA256, TOLD, Works


@pytest.fixture
def works() -> Works:
    return Works()


# --- asking ---


def test_who_asks_for_nothing_gets_nothing(works: Works) -> None:
    assert works.one.of(spec(), IMAGE, architecture="x86_64") is None
    works.content = b"# nothing yet\n"
    assert works.ask() is None
    assert works.slurm.calls == []


def test_the_first_who_asks_submits_a_job_and_waits_for_it(works: Works) -> None:
    assert works.waits() == "its requirements are being installed by job 1"
    assert works.jobs() == ["sb-requirements-KEY-1"]
    assert works.files.read(works.folder / "requirements.txt", limit=100) == ALPHA
    script = works.slurm.job(f"sb-requirements-{works.folder.name}-1").script
    assert f"#SBATCH --chdir={works.folder}\n" in script
    assert "--index-url=https://packages.example/index/" in script


def test_all_who_ask_for_the_same_wait_for_one_job(works: Works) -> None:
    runners = [works.another() for _ in range(3)]
    reasons = {works.waits(runner) for runner in runners for _ in range(30)}
    assert reasons == {"its requirements are being installed by job 1"}
    assert works.slurm.calls.count("submit") == 1


def test_of_two_that_ask_at_the_same_time_one_submits(works: Works) -> None:
    other = works.another()

    def meanwhile(_submissions: object) -> None:
        works.slurm.before = HookedScheduler.before
        assert works.waits(other) == "its requirements are being installed"

    works.slurm.before = meanwhile
    works.waits()
    assert works.jobs() == ["sb-requirements-KEY-1"]


def test_who_loses_the_race_for_the_row_submits_nothing(works: Works) -> None:
    other, listed = works.another(), works.files.list

    def meanwhile(path: Path, *, limit: int | None = None) -> Any:
        works.files.list = listed  # type: ignore[method-assign]
        works.waits(other)
        return listed(path, limit=limit)

    works.files.list = meanwhile  # type: ignore[method-assign]
    assert works.waits() == "its requirements are being installed by job 1"
    assert works.slurm.calls.count("submit") == 1


def test_clusters_install_for_themselves(works: Works) -> None:
    works.waits()
    works.rules = replace(works.rules, folder=Path("/elsewhere"))
    assert works.waits(works.another("other")) == "its requirements are being installed by job 2"


def test_a_small_one_is_looked_for_soon_and_a_long_one_with_the_others(works: Works) -> None:
    found = []
    for passed in (timedelta(0), SMALL):
        works.advance(passed)
        with pytest.raises(RequirementsAwaited) as awaited:
            works.ask()
        found.append(awaited.value.retry_after)
    assert found == [LOOK, None]


def test_slurm_is_not_asked_more_than_once_a_second(works: Works) -> None:
    works.waits()
    works.advance(LOOK)
    wanted = spec(requirements="code:requirements.txt")
    for _ in range(100):
        with pytest.raises(RequirementsAwaited):
            works.one.of(wanted, IMAGE, architecture="x86_64")
    assert works.slurm.calls.count("jobs") == 1


# --- made ---


def test_what_was_made_is_what_a_process_is_equipped_with(works: Works) -> None:
    works.waits()
    works.make()
    found = works.ask()
    assert found is not None
    assert found.path == f"{works.folder}/made/requirements.sqsh"
    assert (found.found.key, found.found.sha256) == (works.folder.name, SHA256)
    assert [entry.name for entry in found.found.lock] == ["alpha", "beta"]
    assert found.found.text.startswith("alpha==1.0 --hash=sha256:4dd81fb6")
    assert works.ask(works.another()) == found
    assert works.slurm.calls.count("submit") == 1


def test_other_lines_images_and_sources_are_other_requirements(works: Works) -> None:
    works.waits()
    works.waits(requirements_source="wheels")
    works.content = b"beta\n"
    works.waits()
    other = IMAGE.model_copy(update={"sha256": "7" * 64})
    with pytest.raises(RequirementsAwaited):
        works.one.of(spec(requirements="code:r.txt"), other, architecture="x86_64")
    assert len(works.files.list(FOLDER)) == works.slurm.calls.count("submit") == 4


def test_what_an_administrator_has_removed_is_installed_anew(works: Works) -> None:
    works.waits()
    works.make()
    assert works.ask()
    works.files.remove_tree(works.folder)
    assert works.waits() == "its requirements are being installed by job 2"
    works.make(2)
    assert works.ask()


def test_an_image_that_is_gone_from_what_was_made_is_installed_anew(works: Works) -> None:
    works.waits()
    works.make()
    assert works.ask()
    works.files.remove_file(works.folder / "made/requirements.sqsh")
    assert works.waits() == "its requirements are being installed by job 2"
    # Else the job would find that there is nothing to do.
    assert "made" not in [entry.name for entry in works.files.list(works.folder)]


def test_what_lies_there_is_taken_when_the_database_is_another_one(works: Works) -> None:
    works.waits()
    works.make()
    found = works.ask()
    works.database = fresh_database()
    assert works.ask(works.another()) == found
    assert works.slurm.calls.count("submit") == 1


def test_attempts_that_another_database_knew_are_not_taken_for_one_s_own(works: Works) -> None:
    works.waits()
    works.files.make_folder(works.folder / "making.1", mode=0o700)
    works.files.link(works.folder / "claim.1", "1")
    works.database = fresh_database()
    works.waits(works.another())
    assert works.jobs() == ["sb-requirements-KEY-1", "sb-requirements-KEY-2"]
    assert "making.1" in [entry.name for entry in works.files.list(works.folder)]


# --- what breaks ---


def test_a_runner_that_dies_before_the_submission_delays_it(works: Works) -> None:
    def dies(_submissions: object) -> None:
        raise Crash

    works.slurm.before = dies
    with pytest.raises(Crash):
        works.ask()
    works.slurm.before = HookedScheduler.before
    other = works.another()
    assert works.waits(other) == "its requirements are being installed"
    works.advance(UNKNOWN)
    assert works.waits(other) == "its requirements are being installed by job 1"
    assert works.jobs() == ["sb-requirements-KEY-2"]


def test_a_job_whose_id_was_not_recorded_is_found_by_its_name(works: Works) -> None:
    works.slurm.swallow = True
    assert works.waits() == "its requirements are being installed"
    assert works.waits(works.another()) == "its requirements are being installed by job 1"
    assert works.slurm.calls.count("submit") == 1


def test_what_a_job_without_a_known_id_has_made_counts(works: Works) -> None:
    works.slurm.swallow = True
    works.waits()
    works.make()
    assert works.ask()


@pytest.mark.parametrize("state", [SlurmState.NODE_FAIL, SlurmState.CANCELLED])
def test_a_job_that_is_lost_is_followed_by_another(works: Works, state: SlurmState) -> None:
    works.waits()
    works.files.make_folder(works.folder / "making.1", mode=0o700)
    works.end(state=state)
    assert works.waits() == "its requirements are being installed by job 1"
    works.advance(UNSEEN)
    assert works.waits() == "its requirements are being installed by job 2"
    assert "making.1" not in [entry.name for entry in works.files.list(works.folder)]
    works.make(2)
    assert works.ask()


def test_a_job_that_slurm_has_forgotten_is_followed_by_another(works: Works) -> None:
    works.waits()
    works.slurm.forget(1)
    works.advance(UNKNOWN)
    assert works.waits() == "its requirements are being installed by job 2"


def test_a_slurm_that_is_silent_is_waited_for(works: Works) -> None:
    works.waits()
    works.slurm.silent = True
    assert works.waits() == "its requirements are being installed by job 1"
    works.make()
    assert works.ask()


def test_a_job_that_waits_is_waited_for_as_long_as_it_does(works: Works) -> None:
    works.waits()
    works.advance(timedelta(days=3))
    assert works.waits() == "its requirements are being installed by job 1"


# --- what fails ---


def test_what_the_submitter_has_to_mend_ends_the_process(works: Works) -> None:
    works.waits()
    works.fail(said=NO_PACKAGE.encode())
    with pytest.raises(InvalidProcess) as found:
        works.ask()
    assert str(found.value) == f"{TOLD}; it is tried anew from 05:16:09 UTC on"
    assert works.row.state is InstallationState.FAILED


def test_a_failure_is_believed_for_a_while_and_then_tried_anew(works: Works) -> None:
    works.waits()
    works.fail(said=NO_PACKAGE.encode())
    for _ in range(3):
        with pytest.raises(InvalidProcess, match="no package of this name"):
            works.ask(works.another())
    assert works.slurm.calls.count("submit") == 1
    works.advance(works.rules.believed)
    assert works.waits() == "its requirements are being installed by job 2"
    works.make(2)
    assert works.ask()


@pytest.mark.parametrize(
    ("left", "told", "pause"),
    [
        ({"refused": b"mksquashfs is missing: install squashfs-tools"}, "mksquashfs", MENDING),
        ({"exit_code": b"143\n"}, "ended before it was done", PASSING),
    ],
)
def test_what_the_site_has_to_mend_is_waited_for(
    works: Works, left: dict[str, bytes], told: str, pause: timedelta
) -> None:
    works.waits()
    works.fail(**left)
    with pytest.raises(StagingFailed, match=f"cannot be installed now: .*{told}"):
        works.ask()
    works.advance(pause)
    assert works.waits() == "its requirements are being installed by job 2"


@pytest.mark.parametrize(
    ("refusal", "pause"),
    [("Invalid account or account/partition combination specified", MENDING), ("", PASSING)],
)
def test_a_submission_that_did_not_succeed_is_tried_again(
    works: Works, refusal: str, pause: timedelta
) -> None:
    works.slurm.silent = not refusal
    works.slurm.refusals += [refusal] if refusal else []
    with pytest.raises(StagingFailed, match=refusal or "cannot be reached"):
        works.ask()
    works.slurm.silent = False
    with pytest.raises(StagingFailed):
        works.ask()
    works.advance(pause)
    assert works.waits() == "its requirements are being installed by job 1"


def test_a_folder_that_cannot_be_used_is_the_site_s_to_mend(works: Works) -> None:
    works.files.write(Path("/shared"), b"a file")
    for _ in range(2):
        with pytest.raises(StagingFailed, match="cannot be used: Not a directory"):
            works.ask()
    works.files.remove_file(Path("/shared"))
    works.advance(PASSING)
    assert works.waits() == "its requirements are being installed by job 1"


def test_a_record_that_cannot_be_read_is_made_anew(works: Works) -> None:
    works.waits()
    works.leave("made", {"exit_code": b"0\n", "packed": b"?"})
    works.end()
    assert works.waits() == "its requirements are being installed by job 1"
    works.advance(UNSEEN)
    assert works.waits() == "its requirements are being installed by job 2"
    works.make(2)
    assert works.ask()


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "location", "told"),
    [
        (b"-r other.txt\n", "code:requirements.txt", "line 1: the option '-r' is refused"),
        (b"{}", "code:r/renv.lock", "renv.lock is not supported yet"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(
    works: Works, content: bytes, location: str, told: str
) -> None:
    works.content = content
    with pytest.raises(InvalidProcess, match=told):
        works.one.of(spec(requirements=location), IMAGE, architecture="x86_64")
    assert works.slurm.calls == []


def test_a_source_that_is_not_there_any_more_is_refused(works: Works) -> None:
    with pytest.raises(InvalidProcess, match="installs no source 'gone' of requirements"):
        works.ask(requirements_source="gone")
    works.rules = replace(works.rules, sources={}, usual=None)
    with pytest.raises(InvalidProcess, match="this site installs no requirements"):
        works.ask(works.another())


def test_sources_are_built_only_where_the_site_says_so(works: Works) -> None:
    works.waits(requirements_source="own")
    [job] = works.slurm.living()
    assert "--only-binary" not in job.script
    assert "--index-url=https://own.example/index/" in job.script


# --- the job's place ---


def test_the_job_keeps_to_what_the_site_says(works: Works) -> None:
    works.rules = replace(
        works.rules, account="teaching", partition="main", avoid=lambda: ("node2", "node3")
    )
    works.waits(works.another())
    [job] = works.slurm.living()
    for line in ("account=teaching", "partition=main", "exclude=node2,node3"):
        assert f"#SBATCH --{line}\n" in job.script


def test_nodes_that_cannot_install_are_avoided_unless_none_can() -> None:
    def known(*able: str) -> tuple[str, ...]:
        names = ("a", "b", "c")
        nodes = tuple(
            NodeReadiness(
                node=name, can_seal=True, facts={"mksquashfs": name if name in able else ""}
            )
            for name in names
        )
        main = CAPABILITY.partitions[0].model_copy(update={"node_names": names})
        return unfit(CAPABILITY.model_copy(update={"partitions": (main,), "nodes": nodes}), None)

    assert known("a", "b", "c") == ()
    assert known("b") == ("a", "c")
    assert known() == ()
    assert unfit(None, None) == ()


def test_the_lock_is_stored_as_it_was_read(works: Works) -> None:
    works.waits()
    works.make()
    works.ask()
    assert works.row.installed is not None
    read = json.loads(REPORT.read_bytes())["install"]
    assert {entry.name for entry in works.row.installed.lock} == {
        entry["metadata"]["name"] for entry in read
    }
