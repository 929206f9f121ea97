"""What is staged has a digest that anybody can compute, and that is asked for again on the node."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.context.digests import SHELL, tree_sha256
from slurmbridge.context.folder import ContextFolder
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds
from slurmbridge.errors import InvalidProcess
from slurmbridge.spec import parse_spec
from tests.support.builders import GOLDEN, Bridge
from tests.support.stage import staged

SIGNS = ["a", "B", "é", " ", "\\", "\n", "\r", "-", "'", "*"]
NAMES = st.text(st.sampled_from(SIGNS), min_size=1, max_size=6)
ROOMY = Bounds(1 << 20, 100)


def by_the_shell(folder: Path) -> str:
    found = subprocess.run(
        SHELL, shell=True, cwd=folder, check=True, capture_output=True, text=True
    )
    return found.stdout.split()[0]


def digests(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    ]


@given(st.dictionaries(NAMES, st.binary(max_size=8), max_size=6))
def test_the_digest_of_a_folder_is_what_the_shell_line_prints(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "below").mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / "below" / name).write_bytes(content)
    assert tree_sha256(reversed(digests(folder))) == by_the_shell(folder)


def asking(**declared: str) -> dict[str, object]:
    return {
        "image": "python",
        "command": ["true"],
        "code": {"source": "data:code"},
        "inputs": [{"source": "data:one.csv"} | declared],
    }


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Path]:
    data = tmp_path / "data"
    (data / "code/lib").mkdir(parents=True)
    (data / "code/main.py").write_text("print(1)\n")
    (data / "code/lib/a.py").write_text("")
    (data / "one.csv").write_text("a,b\n")
    return {"data": data}


def test_what_has_the_declared_digest_is_staged(
    folder: ContextFolder, stores: dict[str, Path]
) -> None:
    wanted = asking(sha256=hashlib.sha256(b"a,b\n").hexdigest())
    wanted["code"] = {"source": "data:code", "sha256": by_the_shell(stores["data"] / "code")}
    assert len(folder.stage(parse_spec(wanted), Origins(stores), ROOMY)) == 3


@pytest.mark.parametrize("what", ["code", "inputs"])
def test_what_has_another_digest_is_refused_with_both(
    folder: ContextFolder, stores: dict[str, Path], what: str
) -> None:
    wanted = asking() if what == "code" else asking(sha256="0" * 64)
    if what == "code":
        wanted["code"] = {"source": "data:code", "sha256": "0" * 64}
    with pytest.raises(InvalidProcess) as caught:
        folder.stage(parse_spec(wanted), Origins(stores), ROOMY)
    assert "0" * 64 in str(caught.value)
    found = (
        by_the_shell(stores["data"] / "code")
        if what == "code"
        else hashlib.sha256(b"a,b\n").hexdigest()
    )
    assert found in str(caught.value)


def test_the_digest_of_the_code_is_kept_and_stands_in_the_script(bridge: Bridge) -> None:
    (bridge.root / "data/code").mkdir()
    (bridge.root / "data/code/main.py").write_text("print(1)\n")
    one = bridge.submitted(code={"source": "data:code"})
    expected = by_the_shell(bridge.root / "data/code")
    assert bridge.get(one).code_sha256 == expected
    assert expected in (bridge.desk.script(one) or "")


@pytest.mark.parametrize("change", ["nothing", "content", "name", "more", "less"])
def test_code_that_was_changed_since_it_was_staged_does_not_run(
    tmp_path: Path, change: str
) -> None:
    files = {"main.py": "print(1)\n", "lib/a b.py": "", "lib/x\ny.py": "1"}
    digest = tree_sha256((n, hashlib.sha256(c.encode()).hexdigest()) for n, c in files.items())
    stage = staged(GOLDEN / "minimal.toml", tmp_path, code_sha256=digest)
    code = stage.context / "code"
    for name, content in files.items():
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).write_text(content)
    match change:
        case "content":
            (code / "main.py").write_text("print(2)\n")
        case "name":
            (code / "main.py").rename(code / "other.py")
        case "more":
            (code / "sitecustomize.py").touch()
        case "less":
            (code / "lib/a b.py").unlink()
    if change == "nothing":
        assert stage.run() == 0
        assert stage.program_was_started
    else:
        assert stage.refused() == "the code is not what was staged"
