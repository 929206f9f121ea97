"""A Process that really ran, as a crate: valid, true to accounting and to the files."""

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from tests.support.cluster import BRIDGE_PYTHON, Cluster, until
from tests.support.provenance import Answers, sha256

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
Run = Callable[..., Process]
SECRET = b"patient,diagnosis\n7,a rare one\n"
PROGRAM = b"""
data = open("/input/crate/patients.csv").read()
open("/output/count.txt", "w").write(f"{data.count(chr(10)) - 1}\\n")
print("counted")
"""
PROFILES = ("ro-crate-1.1", "process-run-crate-0.5")


@dataclass(frozen=True)
class Packed:
    """A Process, its crate as a folder and as a bag, and what the validator says of both."""

    process: Process
    folder: Path
    bag: Path
    answers: Answers


def described(crate: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((crate / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in document["@graph"]}


def fetched(bridge: Cluster, path: str, folder: Path) -> Path:
    """A folder of the bridge, copied here by way of standard output, that is text."""
    code = (
        "import base64, sys; sys.stdout.write(base64.b64encode(sys.stdin.buffer.read()).decode())"
    )
    script = 'tar -C "$1" -c . | "$2" -c "$3"'
    text = bridge.must("bridge", "sh", "-c", script, "sh", path, BRIDGE_PYTHON, code)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text))) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def packed(bridge: Cluster, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    bridge.write("bridge", "/shared/data/crate/patients.csv", SECRET)
    bridge.write("bridge", "/shared/code/crate/count.py", PROGRAM)
    process = run(
        "python3",
        "count.py",
        trace="audit",
        code={"source": "code:crate"},
        inputs=[{"source": "data:crate"}],
        environment={"MODE": "fast"},
    )
    assert process.state is ProcessState.COMPLETE, process.reason
    # Accounting learns of a job's end a moment later than the bridge.
    argv = ("sacct", "-XnP", f"--jobs={process.job_id}", "--format=State")
    until("end in accounting", lambda: bridge.must("login", *argv).strip() == "COMPLETED")
    place = f"/tmp/crates-{process.id}"
    bridge.must("bridge", "slurmbridge", "crate", process.id, f"{place}/crate")
    shown = bridge.must(
        "bridge", "slurmbridge", "crate", process.id, f"{place}/bag.zip", "--five-safes", "--json"
    )
    assert json.loads(shown) == {"process": process.id, "crate": f"{place}/bag.zip"}
    here = fetched(bridge, place, tmp_path_factory.mktemp("packed"))
    bridge.must("bridge", "rm", "-r", place)
    with zipfile.ZipFile(here / "bag.zip") as archive:
        archive.extractall(here / "bag")
    data = here / "bag" / process.id / "data"
    questions = [(str(at), name, "REQUIRED") for at in (here / "crate", data) for name in PROFILES]
    answers = Answers(tmp_path_factory.mktemp("validator"), questions)
    yield Packed(process, here / "crate", data, answers)
    answers.stop()


def test_outputs_are_the_files_that_the_process_left(bridge: Cluster, packed: Packed) -> None:
    results = f"/shared/results/processes/{packed.process.id}"
    assert (packed.folder / "output/count.txt").read_text() == "1\n"
    for file in packed.process.outputs:
        there = bridge.must("bridge", "sha256sum", f"{results}/{file.path}").split()[0]
        for crate in (packed.folder, packed.bag):
            assert sha256((crate / file.path).read_bytes()) == there
            assert described(crate)[file.path]["sha256"] == there


def test_what_was_used_is_what_accounting_says(bridge: Cluster, packed: Packed) -> None:
    found = described(packed.folder)
    used = {
        found[ref["@id"]]["name"]: found[ref["@id"]]["value"]
        for ref in found[f"#run-{packed.process.id}"]["resourceUsage"]
    }
    names = ("AllocTRES", "ElapsedRaw", "State", "NodeList", "Account")
    argv = ("sacct", "-XnP", f"--jobs={packed.process.job_id}", f"--format={','.join(names)}")
    said = bridge.must("login", *argv).strip().split("|")
    assert {name: used[name] for name in names} == dict(zip(names, said, strict=True))
    assert "mem=256M" in used["AllocTRES"]
    assert int(used["ElapsedRaw"]) >= 0
    assert used["MaxRSS"].endswith("K")


def test_inputs_are_told_by_their_checksums_and_no_byte_of_them_is_there(packed: Packed) -> None:
    for crate in (packed.folder, packed.bag):
        named = {entity.get("alternateName"): entity for entity in described(crate).values()}
        assert named["/input/crate/patients.csv"]["sha256"] == sha256(SECRET)
        assert named["/code/count.py"]["sha256"] == sha256(PROGRAM)
        files = [path for path in crate.rglob("*") if path.is_file()]
        assert not [path for path in files if b"a rare one" in path.read_bytes()]


def test_the_trace_its_report_and_the_attestation_are_there(packed: Packed) -> None:
    report = json.loads((packed.folder / "trace-report.json").read_text())
    assert report["process_id"] == packed.process.id
    assert packed.process.traced is not None
    assert report["verdict"]["outcome"] == packed.process.traced.verdict
    assert (packed.folder / "trace.zst").stat().st_size > 0
    assert json.loads((packed.folder / "attestation.json").read_text())["sealed"] is True
    assert packed.process.job_name in (packed.folder / "script.sbatch").read_text()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_public_validator_finds_nothing_that_is_required(packed: Packed, profile: str) -> None:
    # The folder is packed/crate, the payload of the bag is packed/bag/ID/data.
    for crate in (packed.folder, packed.bag):
        assert packed.answers.of(crate.parent.name, profile) == {}
