"""Code and inputs are staged from Data Stores of every kind, each on a real server."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurmbridge.context.copying import Pace, Reading
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import ProcessSpec, parse_spec
from tests.contract.store_worlds import NAME, World, s3_world, webdav_world

WORLDS = {"webdav": webdav_world, "s3": s3_world}
BOUNDS = Bounds(1 << 30, 10_000)
FILES = {f"data/part/{number:03}.csv": bytes([number]) * 3000 for number in range(60)}


@pytest.fixture(scope="module", params=WORLDS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with WORLDS[request.param](tmp_path_factory.mktemp("store")) as found:
        for path, content in FILES.items():
            found.put(path, content)
        found.put("code/main.py", b"print('ran')")
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> ContextFolder:
    found = Contexts(LocalFiles(), tmp_path / "contexts").of("one")
    (tmp_path / "contexts").mkdir()
    found.make(b"", b"", b"")
    return found


def asking(source: str = f"{NAME}:data") -> ProcessSpec:
    spec = {"image": "python", "command": ["true"], "code": {"source": f"{NAME}:code/main.py"}}
    return parse_spec({**spec, "inputs": [{"source": source, "target": "here"}]})


def staged(world: World, folder: ContextFolder, spec: ProcessSpec, **changes: object) -> list[str]:
    store = world.opened(write=False, **changes)
    remote = {NAME: Reading(store, Pace(4, attempts=2, sleep=lambda _: None))}
    try:
        copied = folder.stage(spec, Origins({}, remote), BOUNDS)
    finally:
        store.close()
    for file in copied:
        content = (folder.path / file.path).read_bytes()
        assert file.sha256 == hashlib.sha256(content).hexdigest()
    return [file.path for file in copied]


def test_files_and_folders_are_staged(world: World, folder: ContextFolder) -> None:
    names = [path.removeprefix("data/") for path in FILES]
    expected = ["code/main.py", *(f"input/here/{name}" for name in names)]
    assert staged(world, folder, asking()) == expected
    for name in names:
        assert (folder.path / "input/here" / name).read_bytes() == FILES[f"data/{name}"]


def test_what_is_not_there_is_the_submitter_s_mistake(world: World, folder: ContextFolder) -> None:
    with pytest.raises(InvalidProcess, match="archive:nothing does not exist"):
        staged(world, folder, asking(f"{NAME}:nothing"))


def test_what_is_too_much_is_refused_before_the_first_byte(
    world: World, folder: ContextFolder
) -> None:
    store = world.opened(write=False)
    with (
        closing(store),
        pytest.raises(InvalidProcess, match="180000 bytes, 99988 are allowed"),
    ):
        folder.stage(asking(), Origins({}, {NAME: Reading(store)}), Bounds(100_000, 1000))
    assert not (folder.path / "input/here").exists()


def test_a_store_that_is_away_is_no_mistake_of_the_submitter(
    world: World, folder: ContextFolder
) -> None:
    nowhere = {"webdav": {"url": "http://127.0.0.1:9/"}, "s3": {"endpoint": "http://127.0.0.1:9"}}
    with pytest.raises(StagingFailed, match=f"store {NAME}"):
        staged(world, folder, asking(), **nowhere[world.kind])
