"""Several clusters: who is meant, what each offers, and what is brought to each."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slurmbridge.bridge.checks import Clusters
from slurmbridge.bridge.deliver import Sent, Shared
from slurmbridge.bridge.desk import Desk
from slurmbridge.errors import (
    HelpersMissing,
    ImageRefused,
    InvalidProcess,
    RequestError,
    StagingFailed,
)
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import Helpers
from slurmbridge.shell import LocalFiles
from slurmbridge.store import ProcessStore, Roster, RunnerStatus, SiteStore
from tests.support.bench import Bench, PlayedSite
from tests.support.builders import Bridge
from tests.support.front import NOW, Front, opened
from tests.support.rows import change, enroll, move
from tests.support.specs import CAPABILITY, HELPERS, IMAGE, START, spec


@pytest.fixture
def front() -> Iterator[Front]:
    with opened() as found:
        yield found


@pytest.fixture
def desk(bridge: Bridge) -> Desk:
    bridge.desk._clusters = Clusters(("near", "far"), None)
    return bridge.desk


# --- which one ---


def test_of_several_clusters_one_has_to_be_named(desk: Desk) -> None:
    for named, said in ((None, "is required"), ("moon", "there is no cluster 'moon'")):
        with pytest.raises(InvalidProcess, match=said) as caught:
            desk.submit(spec(cluster=named), by="alice")
        [(field, message)] = caught.value.fields
        assert field == "cluster"
        assert "known: near, far" in message
    assert desk.page() == []


OWN = Clusters(
    ("open", "alpha", "beta", "shared"),
    "open",
    {"alpha": frozenset({"a"}), "beta": frozenset({"b", "c"}), "shared": frozenset({"a", "c"})},
)


@pytest.mark.parametrize(
    ("name", "account", "chosen"),
    [
        (None, "b", "beta"),
        (None, "z", "open"),
        (None, None, "open"),
        # Of two that are its own, none is meant.
        (None, "a", "open"),
        ("open", "b", "open"),
        ("shared", "c", "shared"),
    ],
)
def test_an_account_whose_own_cluster_there_is_goes_there(
    name: str | None, account: str | None, chosen: str
) -> None:
    assert OWN.chosen(name, account) == chosen


@pytest.mark.parametrize(
    ("account", "said"),
    [("z", "not for the account 'z'"), (None, "not for a Process that names no account")],
)
def test_a_cluster_of_others_is_refused(account: str | None, said: str) -> None:
    with pytest.raises(InvalidProcess, match=said):
        OWN.chosen("alpha", account)


def test_a_process_is_for_the_runners_of_its_cluster_alone(desk: Desk, bridge: Bridge) -> None:
    one = desk.submit(spec(cluster="far"), by="alice")
    assert one.cluster == "far"
    enroll(bridge.processes, "r1")
    for name, expected in (("near", []), ("default", []), ("far", [one.id])):
        store = ProcessStore(bridge.database, name)
        claimed = store.claim(Phase.ACCEPTED, runner="r1", limit=9, now=START)
        assert [entry.id for entry in claimed] == expected


def test_the_usual_one_is_meant_when_none_is_named(desk: Desk) -> None:
    desk._clusters = Clusters(("near", "far"), "far")
    assert desk.submit(spec(), by="alice").cluster == "far"


def test_what_a_cluster_offers_is_asked_of_that_one(desk: Desk, bridge: Bridge) -> None:
    small = CAPABILITY.partitions[0].model_copy(update={"cpus_per_node": 1})
    near = CAPABILITY.model_copy(update={"observed_at": START, "partitions": (small,)})
    SiteStore(bridge.database, "near").record_capability(near)
    SiteStore(bridge.database, "far").record_capability(
        CAPABILITY.model_copy(update={"observed_at": START})
    )
    asked = {"resources": {"cpus_per_task": 2}}
    desk.submit(spec(cluster="far", **asked), by="alice")
    with pytest.raises(InvalidProcess, match="more than a node of main has"):
        desk.submit(spec(cluster="near", **asked), by="alice")
    assert desk.capability("near").partitions[0].cpus_per_node == 1
    for name in (None, "moon"):
        with pytest.raises(RequestError, match="known: near, far"):
            desk.capability(name)


def test_each_cluster_says_how_it_goes_there(desk: Desk, bridge: Bridge) -> None:
    roster = Roster(bridge.database)
    now = bridge.clock()
    roster.strike("runner-1", 0)
    roster.enter(RunnerStatus("a", "h", "fake", now, "Slurm is silent", "near"))
    roster.enter(RunnerStatus("b", "h", "fake", now, None, "far"))
    roster.count_calls("far", {"jobs": (7, 2), "submit": (3, 0)})
    one = desk.submit(spec(cluster="far"), by="alice")
    move(ProcessStore(bridge.database), change(one.id, after=ProcessState.RUNNING))
    near, far = desk.clusters()
    assert (near.name, near.runners, near.reached, near.in_progress) == ("near", 1, False, 0)
    assert near.problems == ("Slurm is silent",)
    assert (far.reached, far.in_progress, far.problems) == (True, 1, ())
    assert far.scheduler_calls == {"jobs": 7, "submit": 3}
    assert far.scheduler_failures == {"jobs": 2}
    assert desk.readiness().ready, "one that is silent does not keep work from the others"


def test_clusters_are_told_by_api_client_and_command(front: Front, tmp_path: Path) -> None:
    Roster(front.database).enter(RunnerStatus("r", "h", "fake", NOW, None))
    with front.client() as client:
        [told] = client.clusters()
    assert (told.name, told.usual, told.runners, told.reached) == ("default", True, 1, True)
    bench = Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)
    assert bench.json("clusters")["clusters"][0]["name"] == "default"
    assert "default (usual)" in bench.run("clusters").stdout


# --- what is brought there ---


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    (folder / "helpers-x").mkdir(parents=True)
    (folder / "python-1.sif").write_bytes(b"an image")
    for name in ("sbseal", "sbprobe"):
        (folder / "helpers-x" / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def sent(there: Path) -> Sent:
    return Sent(LocalFiles(), there)


def helpers_in(folder: Path) -> Helpers:
    return HELPERS.model_copy(update={"path": str(folder / "helpers-x")})


def test_on_a_shared_folder_everything_is_where_it_is() -> None:
    assert Shared().image(IMAGE) == IMAGE
    assert Shared().helpers(HELPERS) == HELPERS
    Shared().revoke([IMAGE])


def test_an_image_is_brought_once_and_named_by_its_place_there(
    here: Path, there: Path, sent: Sent
) -> None:
    image = IMAGE.model_copy(update={"path": str(here / "python-1.sif")})
    found = sent.image(image)
    assert found == image.model_copy(update={"path": str(there / "python-1.sif")})
    assert (there / "python-1.sif").read_bytes() == b"an image"
    assert [path.name for path in there.iterdir()] == ["python-1.sif"]
    before = (there / "python-1.sif").stat()
    Sent(LocalFiles(), there).image(image)
    assert (there / "python-1.sif").stat().st_mtime_ns == before.st_mtime_ns


def test_a_copy_that_was_cut_short_is_made_anew(here: Path, there: Path, sent: Sent) -> None:
    there.mkdir()
    (there / "python-1.sif").write_bytes(b"an im")
    sent.image(IMAGE.model_copy(update={"path": str(here / "python-1.sif")}))
    assert (there / "python-1.sif").read_bytes() == b"an image"


def test_helpers_are_brought_as_programs(here: Path, there: Path, sent: Sent) -> None:
    found = sent.helpers(helpers_in(here))
    assert found.path == str(there / "helpers-x")
    for name in ("sbseal", "sbprobe"):
        path = there / "helpers-x" / name
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (name.encode(), 0o550)


def test_what_is_missing_here_is_said(here: Path, sent: Sent) -> None:
    with pytest.raises(ImageRefused, match="is missing"):
        sent.image(IMAGE.model_copy(update={"path": str(here / "other.sif")}))
    (here / "helpers-x/sbprobe").unlink()
    with pytest.raises(HelpersMissing, match="not whole"):
        sent.helpers(helpers_in(here))


def test_a_place_that_cannot_be_written_to_is_the_sites_to_put_right(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sent = Sent(LocalFiles(), tmp_path / "file/below")
    with pytest.raises(StagingFailed, match="cannot be written"):
        sent.image(IMAGE.model_copy(update={"path": str(here / "python-1.sif")}))


def test_revoked_images_are_marked_where_the_nodes_look(there: Path, sent: Sent) -> None:
    image = IMAGE.model_copy(update={"path": "/here/python-1.sif", "revoked_reason": "bad"})
    sent.revoke([image])
    assert (there / "python-1.sif.revoked").read_text() == "bad\n"


def test_a_process_runs_with_what_was_brought(bridge: Bridge, tmp_path: Path) -> None:
    rules = bridge.verbs.dispatcher._rules
    delivery = Sent(LocalFiles(), tmp_path / "there")
    image = tmp_path / "python.sif"
    image.write_bytes(b"an image")
    folder = tmp_path / "helpers-x"
    folder.mkdir()
    for name in ("sbseal", "sbprobe"):
        (folder / name).write_bytes(b"")
    with bridge.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE image SET path = '{image}'")
        connection.exec_driver_sql(f"UPDATE helper SET path = '{folder}'")
    bridge.verbs.dispatcher._rules = replace(rules, delivery=delivery)
    one = bridge.submitted()
    script = str(bridge.desk.script(one))
    assert f"{tmp_path}/there/python.sif" in script
    assert f"{tmp_path}/there/helpers-x/sbseal" in script
    assert f"{image}" not in script


def test_a_preview_names_the_places_there_and_brings_nothing(
    here: Path, there: Path, sent: Sent
) -> None:
    image = IMAGE.model_copy(update={"path": str(here / "python-1.sif")})
    found, helpers = sent.named(image, helpers_in(here))
    assert (found.path, helpers.path) == (f"{there}/python-1.sif", f"{there}/helpers-x")
    assert not there.exists()
