"""Processes with requirements: they wait, are equipped, and say with what; or end, and say why."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.bridge.requirements import PASSING, Installer, InstallRules, Source
from slurmbridge.context.reading import read_small
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.requirements import BYTES_LIMIT, Wheelhouse
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import SANE_COMMAND
from slurmbridge.store import InstallationStore
from tests.support.builders import Bridge, end, shipped_templates
from tests.support.specs import IMAGE, spec
from tests.support.works import IMAGE_CONTENT, NO_PACKAGE, REPORT, SHA256, TOLD

NEEDS = "data:requirements.txt"
AWAITED = "its requirements are being installed by job 1"


@dataclass
class Workshop:
    """A bridge whose cluster installs requirements."""

    bridge: Bridge
    folder: Path

    def dispatch(self) -> None:
        """A turn of a Runner, a moment later."""
        self.bridge.advance(PASSING)
        self.bridge.verbs.dispatcher.dispatch()

    @property
    def key(self) -> Path:
        """The one folder of a key."""
        [found] = self.folder.iterdir()
        return found

    def leave(self, name: str, content: dict[str, bytes]) -> None:
        """What the first job leaves."""
        (self.key / name).mkdir()
        for file, data in content.items():
            (self.key / name / file).write_bytes(data)
        job_id = self.bridge.slurm.job(f"sb-requirements-{self.key.name}-1").report.job_id
        self.bridge.slurm.end(job_id, SlurmState.COMPLETED)

    def make(self) -> None:
        """The job has done its work."""
        packed = f"{SHA256} {len(IMAGE_CONTENT)}\n".encode()
        report = REPORT.read_bytes()
        made = {"exit_code": b"0", "files": b"3", "packed": packed, "report.json": report}
        self.leave("made", {**made, "requirements.sqsh": IMAGE_CONTENT})


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    bridge, folder = Bridge(tmp_path), tmp_path / "requirements"
    sources = {"wheels": Source(Wheelhouse("wheels", "/shared/wheels"))}
    bridge.installer = Installer(
        InstallationStore(bridge.database),
        LocalFiles(),
        bridge.slurm,
        shipped_templates(),
        InstallRules(folder, sources, usual="wheels"),
        read=lambda place: read_small(place, bridge.stores, {}, limit=BYTES_LIMIT),
        clock=bridge.clock,
    )
    bridge.verbs = bridge.new_verbs("runner-1")
    (tmp_path / "data/requirements.txt").write_text("alpha\n")
    return Workshop(bridge, folder)


def test_a_process_waits_for_its_requirements_and_says_so_once(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    for _ in range(5):
        workshop.dispatch()
    found = bridge.get(one)
    assert (found.state, found.reason, found.job_id) == (ProcessState.QUEUED, AWAITED, None)
    assert [event.detail for event in bridge.events(one)].count(AWAITED) == 1
    assert not bridge.context(one).exists()


def test_equipped_it_runs_and_tells_with_what(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    workshop.make()
    workshop.dispatch()
    found = bridge.get(one)
    assert found.requirements is not None
    assert (found.job_id, found.requirements.sha256) == (2, SHA256)
    assert [entry.name for entry in found.requirements.lock] == ["alpha", "beta"]
    script = bridge.desk.script(one) or ""
    assert f"exec 9<{workshop.key}/made/requirements.sqsh" in script
    context = bridge.context(one)
    assert b"PYTHONPATH=/requirements\0" in (context / "environment.list").read_bytes()
    facts = (context / "facts.expected").read_text().splitlines()
    assert {"mount /requirements ro", "outside /requirements same"} <= set(facts)
    assert bridge.desk.page()[0].requirements is None


def test_equipped_it_is_attested_and_ends(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    workshop.make()
    workshop.dispatch()
    bridge.start(one)
    end(bridge, one)
    bridge.look()
    found = bridge.get(one)
    assert (found.state, found.attested) == (ProcessState.COMPLETE, True)


def test_when_they_are_installed_it_is_staged_and_waits_for_them_no_longer(
    workshop: Workshop,
) -> None:
    bridge = workshop.bridge
    (bridge.root / "data/main.py").write_text("import alpha\n")
    one = bridge.submit(requirements=NEEDS, code={"source": "data:main.py"})
    workshop.dispatch()
    workshop.make()
    bridge.slurm.before = lambda _submissions: reasons.append(bridge.get(one).reason)
    reasons: list[str | None] = []
    workshop.dispatch()
    details = [event.detail for event in bridge.events(one)]
    assert reasons == [None]
    assert details.index("staging") > details.index(AWAITED)


def test_a_hundred_wait_for_one_job_and_all_are_equipped(workshop: Workshop) -> None:
    bridge = workshop.bridge
    ids = [bridge.submit(requirements=NEEDS) for _ in range(100)]
    workshop.dispatch()
    assert {bridge.get(one).reason for one in ids} == {AWAITED}
    workshop.make()
    workshop.dispatch()
    assert all(bridge.get(one).requirements for one in ids)
    names = [report.job_name for report in bridge.slurm.jobs()]
    assert len([name for name in names if name.startswith("sb-requirements-")]) == 1


def test_what_cannot_be_installed_ends_the_process_with_its_sentence(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    workshop.leave("failed.1", {"exit_code": b"1", "said": NO_PACKAGE.encode()})
    workshop.dispatch()
    found = bridge.get(one)
    assert found.state is ProcessState.EXECUTOR_ERROR
    assert (found.reason or "").startswith(TOLD)


def test_what_the_site_must_mend_is_waited_for(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    workshop.leave("failed.1", {"refused": b"mksquashfs is missing: install squashfs-tools"})
    workshop.dispatch()
    found = bridge.get(one)
    assert found.state is ProcessState.QUEUED
    assert "cannot be installed now: mksquashfs is missing" in (found.reason or "")


def test_who_waits_for_requirements_can_be_canceled(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    bridge.desk.cancel(one, by="tester")
    assert bridge.state(one) is ProcessState.CANCELED


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "data:requirements.txt does not exist"),
        (b"x" * (BYTES_LIMIT + 1), "has more than the 262144 bytes that are taken"),
        (b"-e .\n", "requirements: line 1: the option '-e' is refused"),
    ],
)
def test_a_file_that_is_not_taken_ends_the_process(
    workshop: Workshop, content: bytes | None, told: str
) -> None:
    bridge = workshop.bridge
    file = bridge.root / "data/requirements.txt"
    file.unlink() if content is None else file.write_bytes(content)
    one = bridge.submit(requirements=NEEDS)
    workshop.dispatch()
    found = bridge.get(one)
    assert found.state is ProcessState.EXECUTOR_ERROR
    assert told in (found.reason or "")


# --- by the contract of SANE ---


def project(bridge: Bridge, *names: str) -> dict[str, object]:
    """A folder with a script, and what else is named."""
    (bridge.root / "data/project").mkdir()
    for name in ("script.py", *names):
        (bridge.root / "data/project" / name).write_text("alpha\n")
    return {"contract": "sane", "command": SANE_COMMAND, "code": {"source": "data:project"}}


def test_what_lies_beside_a_script_is_installed(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(**project(bridge, "requirements.txt"))
    workshop.dispatch()
    assert bridge.get(one).reason == AWAITED
    workshop.make()
    workshop.dispatch()
    found = bridge.get(one)
    assert found.requirements is not None
    assert [entry.name for entry in found.requirements.lock] == ["alpha", "beta"]


def test_a_script_that_needs_nothing_has_nothing_installed(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(**project(bridge))
    workshop.dispatch()
    found = bridge.get(one)
    assert (found.job_id, found.requirements) == (1, None)


def test_a_script_that_is_no_folder_has_nothing_beside_it(workshop: Workshop) -> None:
    bridge = workshop.bridge
    asked = project(bridge, "requirements.txt")
    one = bridge.submit(**asked | {"code": {"source": "data:project/script.py"}})
    workshop.dispatch()
    found = bridge.get(one)
    assert (found.job_id, found.requirements) == (1, None)


def test_what_lies_beside_a_script_in_an_archive_is_installed(workshop: Workshop) -> None:
    bridge = workshop.bridge
    asked = project(bridge, "requirements.txt")
    with tarfile.open(bridge.root / "data/project.tar", "w") as archive:
        archive.add(bridge.root / "data/project", "project")
    code = {"source": "data:project.tar", "unpack": True, "path": "project"}
    one = bridge.submit(**asked | {"code": code})
    workshop.dispatch()
    assert bridge.get(one).reason == AWAITED
    workshop.make()
    workshop.dispatch()
    found = bridge.get(one)
    assert found.requirements is not None
    assert {file.path for file in found.inputs} == {"code/script.py", "code/requirements.txt"}


def test_requirements_that_are_named_count_alone(workshop: Workshop) -> None:
    bridge = workshop.bridge
    one = bridge.submit(**project(bridge), requirements=NEEDS)
    workshop.dispatch()
    assert bridge.get(one).reason == AWAITED


def test_only_a_plain_file_of_a_store_is_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    stores = {"data": tmp_path}
    for name in ("folder", "link", "folder/none"):
        with pytest.raises(InvalidProcess, match=f"data:{name}"):
            read_small(f"data:{name}", stores, {}, limit=10)
    with pytest.raises(StagingFailed, match="the folder of the store gone is missing"):
        read_small("gone:file", stores, {}, limit=10)


# --- at the desk ---


def refused(rules: Rules, **changes: object) -> str:
    """Why it is not accepted."""
    with pytest.raises(InvalidProcess) as found:
        check(spec(**changes), rules, images={"python": IMAGE}, capability=None)
    return str(found.value)


def test_requirements_are_refused_where_none_are_installed() -> None:
    rules = Rules(frozenset({"data"}), frozenset(), has_default_destination=True)
    assert refused(rules, requirements=NEEDS).startswith("requirements: this site installs none")


def test_a_source_is_one_of_the_site_and_named_where_none_is_usual() -> None:
    rules = Rules(
        frozenset({"data"}),
        frozenset(),
        has_default_destination=True,
        requirement_sources=frozenset({"pypi", "own"}),
    )
    told = "requirements_source: is required: there is no usual one (known: own, pypi)"
    assert refused(rules, requirements=NEEDS) == told
    told = "requirements_source: there is no source 'x' (known: own, pypi)"
    assert refused(rules, requirements=NEEDS, requirements_source="x") == told
    told = "requirements: there is no readable store 'gone'"
    assert refused(rules, requirements="gone:r.txt", requirements_source="own") == told
