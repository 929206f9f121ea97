"""The harnesses of ci/fuzz, for seconds: that they build, run, and would notice."""

import subprocess
from pathlib import Path

import pytest

from slurmbridge.container.helpers import SOURCES
from tests.fuzz.mutate import fuzz

FOLDER = Path(__file__).resolve().parents[1] / "fuzz"
# Without the sanitizers' libraries, so that gcc alone is enough; ci/fuzz has more.
FLAGS = ("-std=gnu17", "-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def build(harness: Path, target: Path) -> Path:
    subprocess.run(["gcc", *FLAGS, "-o", str(target), str(harness)], check=True)
    return target


@pytest.mark.parametrize("name", ["sbseal", "sbprobe"])
def test_nothing_breaks_a_helper_in_some_hundred_runs(name: str, tmp_path: Path) -> None:
    runs, findings = fuzz(build(FOLDER / f"{name}_fuzz.c", tmp_path / name), 0.3, seed=1)
    assert findings == []
    assert runs >= 200


def test_a_fault_is_found(tmp_path: Path) -> None:
    source = (SOURCES / "sbseal.c").read_text()
    check = "if (size && text[size - 1])"
    assert source.count(check) == 1
    (tmp_path / "slurmbridge/node").mkdir(parents=True)
    for header in ("agent.h", "filter.h"):
        (tmp_path / "slurmbridge/node" / header).write_text((SOURCES / header).read_text())
    (tmp_path / "slurmbridge/node/sbseal.c").write_text(source.replace(check, "if (0)"))
    (tmp_path / "tests/fuzz").mkdir(parents=True)
    for name in ("sbseal_fuzz.c", "fuzz.h"):
        (tmp_path / "tests/fuzz" / name).write_text((FOLDER / name).read_text())
    harness = build(tmp_path / "tests/fuzz/sbseal_fuzz.c", tmp_path / "sbseal")
    _, findings = fuzz(harness, 5, seed=1)
    assert findings
