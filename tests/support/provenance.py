"""Facts of Processes, for crates: one that is complete, one that failed, one that never ran."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rocrate

from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Attestation, Event, Image, OutputFile, Process, StagedFile
from slurmbridge.provenance import Provenance, write_bag, write_crate
from slurmbridge.spec import parse_spec

ROOT = Path(__file__).parents[2]
VALIDATOR = ROOT / ".venv/validator/bin/python"
# Terms of RO-Crate 1.1 (its context 1.1.3), as far as a crate of ours uses them. rocrate brings the
# context of 1.3, which has more and says the same of these: the validator is given these alone, so
# that a term which 1.1 has not is found.
TERMS_OF_1_1 = (
    "AssessAction", "CreateAction", "CreativeWork", "Dataset", "File", "PropertyValue",
    "Service", "SoftwareApplication", "SoftwareSourceCode", "Thing", "about", "actionStatus",
    "additionalType", "agent", "alternateName", "conformsTo", "contentSize", "dateCreated",
    "datePublished", "description", "encodingFormat", "endTime", "error", "hasPart",
    "identifier", "instrument", "license", "memoryRequirements", "mentions", "name", "object",
    "processorRequirements", "provider", "result", "softwareRequirements", "startTime", "url",
    "value", "version",
)  # fmt: skip
BASE, RUN = "ro-crate-1.1", "process-run-crate-0.5"
START = datetime(2026, 11, 22, 20, 28, 51, tzinfo=UTC)
SCRIPT = "#!/bin/bash\n#SBATCH --job-name=sb-x\n"
OUTPUTS = {
    "output/delays.csv": b"carrier,delay\nF9,21.92\n",
    "output/plots/delays.png": b"\x89PNG",
    "stdout.txt": b"",
    "job.log": b"a\n",
    "trace.zst": b"z" * 70_000,
}
ODD = {
    "output/a b'\"50%#?&:*[1]\\.csv": b"1",
    "output/naïve/日本語.txt": b"2",
    "output/%20": b"3",
    "output/ line\nbreak\r.log": b"4",
    "output/-rf": b"5",
    "output/http:/example.org/x": b"6",
    "output/#": b"7",
}
SECRET = b"patient,diagnosis\n1,none\n"


def sha256(data: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def process(outputs: dict[str, bytes], **values: Any) -> Process:
    """One that left these outputs."""
    spec = {
        "image": "python",
        "command": ["python3", "analysis.py", "-i", "/input"],
        "code": {"source": "data:programs/flights"},
        "inputs": [{"source": "data:flights/2013", "target": "flights"}],
        "environment": {"MODE": "fast", "EMPTY": ""},
    }
    known: dict[str, Any] = {
        "id": "01m82f4zkk4hp1hm77n1f0qrny",
        "state": ProcessState.COMPLETE,
        "spec": parse_spec(spec),
        "cluster": "default",
        "submitted_by": "exchange",
        "created_at": START - timedelta(seconds=2),
        "started_at": START,
        "ended_at": START + timedelta(seconds=4, microseconds=250_999),
        "job_name": "sb-01m82f4zkk4hp1hm77n1f0qrny",
        "job_id": 6844,
        "exit_code": 0,
        "image_sha256": sha256(b"image"),
        "script_sha256": sha256(SCRIPT.encode()),
        "outputs": tuple(
            OutputFile(path=path, size_bytes=len(data), sha256=sha256(data))
            for path, data in outputs.items()
        ),
        "inputs": (
            StagedFile(path="code/analysis.py", size_bytes=4, sha256=sha256(b"code")),
            StagedFile(path="input/flights/a.csv", size_bytes=len(SECRET), sha256=sha256(SECRET)),
        ),
    }
    return Process.model_validate(known | values)


def attestation(**values: Any) -> Attestation:
    """A container found as expected."""
    known: dict[str, Any] = {
        "version": 1,
        "process_id": "01m82f4zkk4hp1hm77n1f0qrny",
        "job_id": 6844,
        "node": "node1",
        "attested_at": START,
        "image_sha256": sha256(b"image"),
        "script_sha256": sha256(SCRIPT.encode()),
        "sbseal_sha256": sha256(b"sbseal"),
        "sbprobe_sha256": sha256(b"sbprobe"),
        "sealed": True,
        "unexpected": (),
        "missing": (),
        "facts": ("net lo",),
        "expected": ("net lo",),
        "public_key": "0" * 64,
    }
    return Attestation.model_validate(known | values)


IMAGE = Image(
    name="python",
    sha256=sha256(b"image"),
    definition_sha256=sha256(b"definition"),
    path="/images/python.sif",
    size_bytes=5,
    squashfs_offset=4096,
    labels={},
    built_at=START - timedelta(days=1),
)
COMPLETE = Provenance(
    process(OUTPUTS),
    "0.1.0",
    IMAGE,
    SCRIPT,
    attestation(),
    trace_report='{"verdict": "nothing unusual"}\n',
    trace_page=b"<!doctype html><title>trace</title>",
    trace_verdict="nothing unusual",
    accounting={"JobID": "6844", "MaxRSS": "304328K", "AllocTRES": "cpu=1,mem=1G"},
    requirements="pandas==3.1.1\n",
    events=(Event(at=START, source="slurm", state=ProcessState.RUNNING, detail="job 6844"),),
)
FAILED = Provenance(
    process(
        ODD,
        state=ProcessState.EXECUTOR_ERROR,
        exit_code=3,
        reason="the program ended with exit code 3",
        outputs_ignored=("output/pipe: is no plain file",),
    ),
    "0.1.0",
    script=SCRIPT,
    attestation=attestation(sealed=False, unexpected=("net eth0",)),
)
# What is left of a Process that never came to a job.
BARE = Provenance(
    Process(
        id="01m82f4zkk4hp1hm77n1f0qrnz",
        state=ProcessState.CANCELED,
        spec=parse_spec({"image": "python", "command": ["/bin/true"]}),
        cluster="default",
        submitted_by="a token, named /odd #1",
        created_at=START,
        job_name="sb-01m82f4zkk4hp1hm77n1f0qrnz",
    ),
    "0.1.0",
)


def on_disk(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    """What a Process left, by its names."""
    files = {}
    for number, (path, data) in enumerate(contents.items()):
        files[path] = folder / f"left-{number}"
        files[path].write_bytes(data)
    return files


def graph(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its entities, by their ids."""
    return {entity["@id"]: entity for entity in document["@graph"]}


def metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """The entities of a crate."""
    return graph(json.loads((folder / "ro-crate-metadata.json").read_text()))


def absent(found: dict[str, dict[str, Any]], path: str) -> dict[str, Any]:
    """What stands of a file that is not in the crate."""
    [entity] = [one for one in found.values() if one.get("alternateName") == f"/{path}"]
    return entity


def write_crates(folder: Path) -> None:
    """The three crates, as folders; and the bag of the first, unpacked."""
    for name, facts, contents in (
        ("complete", COMPLETE, OUTPUTS),
        ("failed", FAILED, ODD),
        ("bare", BARE, {}),
    ):
        (folder / name).mkdir()
        files = on_disk(folder / name, contents)
        write_crate(facts, files, folder / name / "crate")
        write_bag(facts, files, folder / name / "bag.zip")
        with zipfile.ZipFile(folder / name / "bag.zip") as archive:
            archive.extractall(folder / name / "bag")


class Answers:
    """What roc-validator says, in a process of its own that cannot reach a network."""

    def __init__(self, folder: Path, crates: list[tuple[str, str, str]]) -> None:
        assert VALIDATOR.exists(), "roc-validator is missing; ci/test installs it"
        known = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())
        terms = {name: known["@context"][name] for name in TERMS_OF_1_1}
        (folder / "context").write_text(json.dumps({"@context": terms}))
        contexts = {"https://w3id.org/ro/crate/1.1/context": str(folder / "context")}
        question = folder / "question"
        question.write_text(json.dumps({"contexts": contexts, "crates": crates}))
        command = [str(VALIDATOR), str(ROOT / "ci/lib/validate_crates.py"), str(folder / "answer")]
        with question.open() as text, (folder / "log").open("w") as log:
            self._running = subprocess.Popen(
                command, stdin=text, stdout=log, stderr=log, env={"HOME": str(folder)}
            )
        self._folder = folder
        self._crates = crates

    def of(self, crate: str, profile: str) -> dict[str, set[str]]:
        """What is said against a crate in a folder of this name: each sentence, and of what."""
        assert self._running.wait(60) == 0, (self._folder / "log").read_text()
        found = json.loads((self._folder / "answer").read_text())
        said: dict[str, set[str]] = {}
        for (path, asked, _), sentences in zip(self._crates, found, strict=True):
            if (Path(path).parent.name, asked) == (crate, profile):
                for _, sentence, entity in sentences:
                    said.setdefault(sentence, set()).add(str(entity).removeprefix("./"))
        return said

    def stop(self) -> None:
        """It may not have been read."""
        self._running.kill()
        self._running.wait()


def ask_of(crates: Path, folder: Path) -> Answers:
    """Start the validator on the three crates, and on one that is spoilt."""
    # The bag holds all that the folder does, and the steps of the Five Safes.
    whole = crates / "complete/whole"
    whole.symlink_to(crates / "complete/bag" / COMPLETE.process.id / "data")
    spoilt = crates / "spoilt/crate"
    shutil.copytree(crates / "bare/crate", spoilt)
    document = json.loads((spoilt / "ro-crate-metadata.json").read_text())
    graph(document)["./"].pop("license")
    # A term of RO-Crate 1.2.
    graph(document)["#program"]["localPath"] = "/bin/true"
    graph(document)[f"#run-{BARE.process.id}"].pop("instrument")
    (spoilt / "ro-crate-metadata.json").write_text(json.dumps(document))
    folders = [(whole, "RECOMMENDED")]
    folders += [(crates / name / "crate", "REQUIRED") for name in ("failed", "bare", "spoilt")]
    questions = [
        (str(at), profile, severity) for at, severity in folders for profile in (BASE, RUN)
    ]
    return Answers(folder, questions)
