"""Crates: valid by the public validator, honest about what is not known, the same every time."""

import base64
import hashlib
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocrate.rocrate import ROCrate

from slurmbridge.errors import StagingFailed
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import OutputFile, StagedFile
from slurmbridge.provenance import write_bag, write_crate
from slurmbridge.provenance.crate import describe
from tests.support.provenance import (
    BARE,
    COMPLETE,
    FAILED,
    OUTPUTS,
    SECRET,
    Answers,
    absent,
    graph,
    metadata,
    on_disk,
    process,
    sha256,
)


def refs(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value] if value else []
    return [one["@id"] for one in values]


@pytest.fixture(scope="module", autouse=True)
def validator_is_asked(answers: Answers) -> None:
    """It takes seconds, on its own; its answers are read in test_validator.py, long after this."""
    assert answers


def test_a_crate_says_what_was_run(crates: Path) -> None:
    found = metadata(crates / "complete/crate")
    run = found[f"#run-{COMPLETE.process.id}"]
    assert run["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert run["description"] == "python3 analysis.py -i /input"
    assert run["startTime"] == "2026-11-22T20:28:51.000+00:00"
    assert run["endTime"] == "2026-11-22T20:28:55.250+00:00"
    assert found[run["containerImage"]["@id"]]["sha256"] == sha256(b"image")
    assert found["#exit-code"]["value"] == 0
    assert "#exit-code" in refs(run["result"])
    assert found["#environment/EMPTY"]["value"] == ""
    assert found["#usage/MaxRSS"]["value"] == "304328K"
    [code] = refs(found["#program"]["hasPart"])
    assert found[code]["alternateName"] == "/code/analysis.py"
    assert found[run["agent"]["@id"]]["name"] == "exchange"
    assert found["trace-report.json"]["description"].endswith("Its verdict: nothing unusual")


def test_results_are_what_the_program_made(crates: Path) -> None:
    found = metadata(crates / "complete/crate")
    run = found[f"#run-{COMPLETE.process.id}"]
    assert {"output/delays.csv", "stdout.txt"} <= set(refs(run["result"]))
    for path in ("trace.zst", "job.log", "script.sbatch"):
        assert path not in refs(run["result"])
        assert refs(found[path]["about"]) == [run["@id"]]


def test_every_carried_file_stands_with_its_hash(crates: Path) -> None:
    for name in ("complete", "failed", "bare"):
        folder = crates / name / "crate"
        found = metadata(folder)
        present = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        listed = {
            unquote(identifier): found[identifier]
            for identifier in refs(found["./"]["hasPart"])
            if not identifier.startswith("ni:")
        }
        assert set(listed) == present - {"ro-crate-metadata.json"}
        for path, entity in listed.items():
            data = (folder / path).read_bytes()
            assert (entity["sha256"], entity["contentSize"]) == (sha256(data), str(len(data)))


def test_an_input_is_referenced_and_never_there(crates: Path) -> None:
    found = metadata(crates / "complete/crate")
    entity = absent(found, "input/flights/a.csv")
    assert entity["@id"] in refs(found["./"]["hasPart"])
    assert entity["@id"] in refs(found[f"#run-{COMPLETE.process.id}"]["object"])
    assert (entity["sha256"], entity["contentSize"]) == (sha256(SECRET), str(len(SECRET)))
    assert found[entity["identifier"]["@id"]]["value"] == "data:flights/2013/a.csv"
    assert not (crates / "complete/crate/input").exists()
    source = crates / "complete/left-0"
    with pytest.raises(ValueError, match="neither an output nor code"):
        write_crate(COMPLETE, {"input/flights/a.csv": source}, crates / "never")
    assert not (crates / "never").exists()


def test_no_byte_of_an_input_is_in_a_crate(crates: Path) -> None:
    written = [path for path in (crates / "complete/crate").rglob("*") if path.is_file()]
    assert len(written) > len(OUTPUTS)
    written.append(crates / "complete/bag.zip")
    assert [path for path in written if SECRET in path.read_bytes()] == []


def test_two_inputs_of_the_same_content_stay_two(tmp_path: Path) -> None:
    names = ["input/a b?#&.csv", "input/c.csv", "input/é%20"]
    same = tuple(StagedFile(path=n, size_bytes=1, sha256=sha256(b"x")) for n in names)
    found = graph(describe(replace(BARE, process=process({}, inputs=same)), set(), reviewed=False))
    run = found[f"#run-{COMPLETE.process.id}"]
    assert len(set(refs(run["object"]))) == 3
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).decode().rstrip("=")
    for at, name in zip(refs(run["object"]), names, strict=True):
        start, path = at.split("?path=")
        assert start == f"ni:///sha-256;{digest}"
        assert unquote(path) == name
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", path)


def test_a_failed_one_says_why(crates: Path) -> None:
    found = metadata(crates / "failed/crate")
    run = found[f"#run-{FAILED.process.id}"]
    assert run["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert run["error"] == "the program ended with exit code 3"
    assert found["#attestation"]["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert "Entries of /output that were not carried: 1." in found["./"]["description"]


def test_what_is_not_carried_is_described_all_the_same(tmp_path: Path) -> None:
    found = graph(describe(COMPLETE, set(), reviewed=False))
    entity = absent(found, "output/delays.csv")
    assert entity["sha256"] == sha256(OUTPUTS["output/delays.csv"])
    assert entity["@id"] in refs(found[f"#run-{COMPLETE.process.id}"]["result"])
    assert "output/delays.csv" not in found
    carried = graph(describe(COMPLETE, {"code/analysis.py"}, reviewed=False))
    assert carried["code/analysis.py"]["@type"] == ["File", "SoftwareSourceCode"]


def test_a_report_among_the_outputs_is_that_report(tmp_path: Path) -> None:
    left = {"trace-report.json": b"{}", "trace-report.html": b"<html>"}
    files = on_disk(tmp_path, left)
    write_crate(replace(COMPLETE, process=process(left)), files, tmp_path / "crate")
    found = metadata(tmp_path / "crate")
    assert found["trace-report.json"]["sha256"] == sha256(b"{}")
    assert found["trace-report.json"]["description"].endswith("Its verdict: nothing unusual")
    run = found[f"#run-{COMPLETE.process.id}"]
    assert refs(run["result"]) == ["#exit-code"]


def test_the_same_process_gives_the_same_bytes(crates: Path, tmp_path: Path) -> None:
    files = on_disk(tmp_path, OUTPUTS)
    for path in files.values():
        os.utime(path, (1, 1))
    write_bag(COMPLETE, dict(reversed(files.items())), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (crates / "complete/bag.zip").read_bytes()


def changed(path: Path) -> None:
    path.write_bytes(b"other" * 10)


def shorter(path: Path) -> None:
    path.write_bytes(b"")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [changed, shorter, linked, piped, Path.unlink])
@pytest.mark.parametrize("write", [write_crate, write_bag])
def test_a_file_that_is_not_the_one_gives_no_crate(tmp_path: Path, write: Any, spoil: Any) -> None:
    files = on_disk(tmp_path, OUTPUTS)
    spoil(files["output/delays.csv"])
    before = set(tmp_path.iterdir())
    with pytest.raises(StagingFailed):
        write(COMPLETE, files, tmp_path / "crate")
    assert set(tmp_path.iterdir()) == before


def test_a_crate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StagingFailed, match="script"):
        write_crate(replace(COMPLETE, script="other"), {}, tmp_path / "crate")
    (tmp_path / "crate").mkdir()
    with pytest.raises(StagingFailed, match="exists"):
        write_crate(COMPLETE, {}, tmp_path / "crate")
    running = COMPLETE.process.model_copy(update={"state": ProcessState.RUNNING})
    with pytest.raises(ValueError, match="has not ended"):
        write_crate(replace(COMPLETE, process=running), {}, tmp_path / "other")
    for path in ("../x", "/x", "output//x", "script.sbatch"):
        odd = COMPLETE.process.model_copy(
            update={"outputs": (OutputFile(path=path, size_bytes=1, sha256=sha256(b"x")),)}
        )
        (tmp_path / "x").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"plain relative path|the name of a file"):
            write_bag(replace(COMPLETE, process=odd), {path: tmp_path / "x"}, tmp_path / "b.zip")


def read_manifest(bag: Path, name: str) -> dict[str, str]:
    lines = (bag / name).read_bytes().decode().split("\n")[:-1]
    pairs = [line.split("  ", 1) for line in lines]
    return {
        path.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%"): digest
        for digest, path in pairs
    }


@pytest.mark.parametrize("name", ["complete", "failed", "bare"])
def test_a_bag_is_one_by_rfc_8493(crates: Path, name: str) -> None:
    (bag,) = (crates / name / "bag").iterdir()
    assert (bag / "bagit.txt").read_text().startswith("BagIt-Version: 1.0\n")
    present = {path.relative_to(bag).as_posix() for path in bag.rglob("*") if path.is_file()}
    payload = {path for path in present if path.startswith("data/")}
    tags = {path for path in present - payload if not path.startswith("tagmanifest-")}
    for algorithm in ("sha256", "sha512"):
        for manifest, files in (("manifest", payload), ("tagmanifest", tags)):
            found = read_manifest(bag, f"{manifest}-{algorithm}.txt")
            assert set(found) == files
            for path, digest in found.items():
                assert hashlib.new(algorithm, (bag / path).read_bytes()).hexdigest() == digest
    octets = sum((bag / path).stat().st_size for path in payload)
    assert f"Payload-Oxum: {octets}.{len(payload)}\n" in (bag / "bag-info.txt").read_text()


def broken_musts(archive: Path) -> set[str]:
    """The MUSTs of Five Safes RO-Crate 0.4 (w3id.org/5s-crate/0.4) that a bag does not keep.

    roc-validator 0.13 has no such profile.
    """
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        (top,) = {name.split("/")[0] for name in names}
        document = json.loads(opened.read(f"{top}/data/ro-crate-metadata.json"))
        info = opened.read(f"{top}/bag-info.txt").decode()
        declared = opened.read(f"{top}/bagit.txt").decode()
    found = graph(document)
    root = found["./"]
    actions = [found[at] for at in refs(root["mentions"])]
    runs = [action for action in actions if action["@type"] == "CreateAction"]
    checks = [entity for entity in found.values() if entity["@type"] == "AssessAction"]
    workflow = found.get((refs(root.get("mainEntity")) or [""])[0], {})
    agent = found[runs[0]["agent"]["@id"]]
    project = found.get((refs(root.get("sourceOrganization")) or [""])[0], {})
    rules = {
        "BagIt 1.0 or later": "BagIt-Version: 1.0\n" in declared,
        "a manifest with sha-512": f"{top}/manifest-sha512.txt" in names,
        "External-Identifier": "External-Identifier: urn:uuid:" in info,
        "RO-Crate 1.2 or later": found["ro-crate-metadata.json"]["conformsTo"]["@id"]
        == "https://w3id.org/ro/crate/1.2",
        "nothing outside of the crate": not any(".." in at.split("/") for at in found),
        "mainEntity is a Workflow RO-Crate": bool(workflow),
        "one CreateAction is mentioned": len(runs) == 1,
        "its instrument is the Workflow RO-Crate": bool(workflow)
        and refs(runs[0]["instrument"]) == [workflow["@id"]],
        "its agent is a Person": agent["@type"] == "Person",
        "sourceOrganization is a Project": project.get("@type") == "Project",
        "every input is described": set(refs(runs[0].get("object"))) <= set(found),
        "every output is described": set(refs(runs[0].get("result"))) <= set(found),
        "each check has a name": all(check["name"] for check in checks),
        "each check is mentioned": {check["@id"] for check in checks}
        <= set(refs(root["mentions"])),
        "software that checks names its provider": all(
            found[check["agent"]["@id"]]["@type"] != "SoftwareApplication"
            for check in checks
            if "agent" in check
        ),
        "hasPart has the results": {
            at for at in refs(runs[0].get("result")) if not at.startswith("#")
        }
        <= set(refs(root["hasPart"])),
    }
    return {rule for rule, kept in rules.items() if not kept}


@pytest.mark.parametrize("name", ["complete", "failed", "bare"])
def test_a_bag_keeps_the_five_safes_but_for_what_is_not_known(crates: Path, name: str) -> None:
    assert broken_musts(crates / name / "bag.zip") == {
        "RO-Crate 1.2 or later",
        "mainEntity is a Workflow RO-Crate",
        "its instrument is the Workflow RO-Crate",
        "its agent is a Person",
        "sourceOrganization is a Project",
    }


def test_only_a_bag_speaks_of_disclosure_and_it_claims_no_profile_that_it_breaks(
    crates: Path,
) -> None:
    bag = metadata(crates / "complete/bag" / COMPLETE.process.id / "data")
    (check,) = [entity for at, entity in bag.items() if at.startswith("#disclosure-")]
    assert check["actionStatus"] == "http://schema.org/PotentialActionStatus"
    assert bag["./"]["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert not any("disclosure" in at for at in metadata(crates / "complete/crate"))


NAME = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."} and len(name.encode()) <= 255)


@settings(max_examples=25)
@given(st.lists(st.lists(NAME, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_file_names_are_read_back_with_their_hashes(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    # A number in front: no file may be another's folder.
    contents = {
        f"output/{number}{'/'.join(parts)}": str(number).encode()
        for number, parts in enumerate(names)
        if len(f"{number}{parts[0]}".encode()) <= 255
    }
    facts = replace(BARE, process=process(contents))
    write_crate(facts, on_disk(folder, contents), folder / "crate")
    read = ROCrate(folder / "crate")
    found = {unquote(entity.id): entity["sha256"] for entity in read.data_entities}
    for path, data in contents.items():
        assert found[path] == sha256(data)
        assert (folder / "crate" / path).read_bytes() == data
