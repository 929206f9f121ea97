"""Outputs are carried to Data Stores of every kind, each on a real server that may break off."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from slurmbridge.context.carrying import (
    INCOMPLETE,
    MANIFEST,
    Carried,
    Destinations,
    Load,
    Writing,
    carry_out,
)
from slurmbridge.context.copying import Pace
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import StagingFailed
from slurmbridge.shell import LocalFiles
from slurmbridge.stores import DataStore
from tests.contract.store_worlds import NAME, World, s3_world, webdav_world
from tests.support.faulty_web import Fault, FaultyWeb, in_front_of

WORLDS = {"webdav": webdav_world, "s3": s3_world}
BOUNDS = Bounds(1 << 30, 10_000)
FILES = {f"part/{number:03}.csv": bytes([number]) * 3000 for number in range(60)}


@pytest.fixture(scope="module", params=WORLDS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with WORLDS[request.param](tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture
def context(tmp_path: Path, request: pytest.FixtureRequest) -> ContextFolder:
    (tmp_path / "contexts").mkdir()
    found = Contexts(LocalFiles(), tmp_path / "contexts").of(request.node.name.partition("[")[0])
    found.make(b"", b"", b"")
    for path, content in FILES.items():
        (found.path / "output" / path).parent.mkdir(parents=True, exist_ok=True)
        (found.path / "output" / path).write_bytes(content)
    (found.path / "stdout.txt").write_text("printed")
    return found


def carried(context: ContextFolder, store: DataStore, **changes: object) -> Carried:
    pace = Pace(4, attempts=3, sleep=lambda _: None)
    place = Destinations({}, {NAME: Writing(store, pace)}).place(f"{NAME}:out/{context.path.name}")
    load = Load(BOUNDS, {"report.json": b"{}"}, {"process_id": "p1", **changes})
    return carry_out(context, place, load, lambda: True)


def content(store: DataStore, path: str) -> bytes:
    found = b""
    with store.open(path) as file:
        while data := file.read(1 << 20):
            found += data
    return found


def names(store: DataStore, folder: str) -> set[str]:
    found = set()
    for entry in store.list(folder):
        path = f"{folder}/{entry.name}"
        found |= names(store, path) if entry.kind == "folder" else {path}
    return found


def test_everything_is_carried_and_the_manifest_tells_of_it(
    world: World, context: ContextFolder
) -> None:
    with closing(world.opened()) as store:
        done = carried(context, store)
        place = done.location.partition(":")[2]
        assert done.location == f"{NAME}:out/{context.path.name}"
        text = content(store, f"{place}/{MANIFEST}")
        manifest = json.loads(text)
        listed = {file["path"]: file for file in manifest["files"]}
        for path, file in listed.items():
            data = content(store, f"{place}/{path}")
            assert file["size_bytes"] == len(data)
            assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert done.manifest_sha256 == hashlib.sha256(text).hexdigest()
        expected = {*(f"output/{path}" for path in FILES), "stdout.txt", "report.json"}
        assert set(listed) == expected
        assert names(store, place) == {f"{place}/{path}" for path in (*expected, MANIFEST)}
        assert (manifest["process_id"], manifest["kept_back"]) == ("p1", [])


def test_a_second_time_overwrites_nothing(world: World, context: ContextFolder) -> None:
    with closing(world.opened()) as store:
        first, second = carried(context, store), carried(context, store, again=True)
        assert second.location == f"{first.location}.2"
        path = first.location.partition(":")[2]
        assert "again" not in json.loads(content(store, f"{path}/{MANIFEST}"))


def test_what_somebody_else_carries_by_now_is_never_said_to_be_whole(
    world: World, context: ContextFolder
) -> None:
    with closing(world.opened()) as store:
        place = Destinations({}, {NAME: Writing(store)}).place(f"{NAME}:out/lost")
        with pytest.raises(StagingFailed, match="another Runner"):
            carry_out(context, place, Load(BOUNDS), lambda: False)
        left = names(store, "out/lost")
        assert f"out/lost/{INCOMPLETE}" in left
        assert f"out/lost/{MANIFEST}" not in left
        # The next one does not touch it.
        place = Destinations({}, {NAME: Writing(store)}).place(f"{NAME}:out/lost")
        done = carry_out(context, place, Load(BOUNDS), lambda: True)
        assert done.location == f"{NAME}:out/lost.2"


def test_to_a_store_from_which_nothing_is_read_it_is_carried_too(
    world: World, context: ContextFolder
) -> None:
    with closing(world.opened(read=False)) as store:
        assert len(carried(context, store).files) == len(FILES) + 2


def through(world: World, proxy: FaultyWeb) -> DataStore:
    key = "url" if world.kind == "webdav" else "endpoint"
    before = str(world.settings[key])
    port = port_of(world)
    return world.opened(**{key: before.replace(f":{port}", f":{proxy.port}", 1)}, timeout_seconds=3)


def port_of(world: World) -> int:
    key = "url" if world.kind == "webdav" else "endpoint"
    return urlsplit(str(world.settings[key])).port or 80


FAULTS = {
    "busy": Fault("PUT", status=503, times=2),
    "cut": Fault("PUT", cut_request=1000, times=2),
    "answer lost": Fault("PUT", lose=True, times=1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_off_is_written_again(world: World, context: ContextFolder, fault: str) -> None:
    with in_front_of(port_of(world)) as proxy, closing(through(world, proxy)) as store:
        proxy.faults.append(replace(FAULTS[fault], when=lambda asked: "output" in asked.path))
        done = carried(context, store)
        place = done.location.partition(":")[2]
    with closing(world.opened()) as store:
        for file in done.files:
            data = content(store, f"{place}/{file.path}")
            assert hashlib.sha256(data).hexdigest() == file.sha256
        assert {file.path for file in done.files} >= {f"output/{path}" for path in FILES}
        assert done.ignored == ()


REFUSALS = {507: "full", 401: "401", 423: "423"}


@pytest.mark.parametrize(("status", "said"), REFUSALS.items())
def test_a_store_that_will_not_take_it_is_the_site_s_to_mend(
    world: World, context: ContextFolder, status: int, said: str
) -> None:
    with in_front_of(port_of(world)) as proxy, closing(through(world, proxy)) as store:
        proxy.faults.append(Fault("PUT", status=status, when=lambda asked: "output" in asked.path))
        with pytest.raises(StagingFailed, match=said):
            carried(context, store)
