"""Packing a finished Process: all of it, or nothing."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from slurmbridge.bridge.crates import CratePacker, Usage
from slurmbridge.context.results import Results
from slurmbridge.errors import (
    IllegalTransition,
    SchedulerUnavailable,
    StagingFailed,
    UnknownProcess,
)
from slurmbridge.lifecycle import ProcessState
from slurmbridge.store import ImageStore
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.builders import EQUIPMENT, Bridge, end
from tests.support.front import opened
from tests.support.specs import process_id
from tests.support.traces import RECORDED

TRACE = zstandard.ZstdCompressor().compress((RECORDED / "acts-audit.trace").read_bytes())
INPUT = b"patient,diagnosis\n1,none\n"
USED = {"JobID": "1", "AllocTRES": "cpu=1,mem=1G", "MaxRSS": "5184K"}
BOTH = pytest.mark.parametrize("five_safes", [False, True])


def accounting(_cluster: str, _job_id: int) -> Mapping[str, str]:
    return USED


def silent(_cluster: str, _job_id: int) -> Mapping[str, str]:
    raise SchedulerUnavailable("sacct ended with 1: Connection refused")


def packer(bridge: Bridge, usage: Usage = accounting) -> CratePacker:
    images = ImageStore(bridge.database)
    return CratePacker(bridge.processes, images, Results(bridge.stores), usage)


def accepted(bridge: Bridge) -> str:
    (bridge.root / "data/main.py").write_text("pass")
    (bridge.root / "data/table.csv").write_bytes(INPUT)
    return bridge.submit(
        trace="audit", code={"source": "data:main.py"}, inputs=[{"source": "data:table.csv"}]
    )


def finished(bridge: Bridge) -> str:
    """A traced Process that has left one file."""
    wanted = accepted(bridge)
    bridge.verbs.dispatcher.dispatch()
    bridge.start(wanted)
    bridge.leave(wanted, {"trace.zst": TRACE, "output/made/sum.csv": "1\n"})
    end(bridge, wanted)
    bridge.look()
    assert bridge.state(wanted) is ProcessState.COMPLETE, bridge.get(wanted).reason
    return wanted


def unpacked(target: Path, bridge: Bridge, wanted: str, *, five_safes: bool) -> Path:
    """The folder of a crate."""
    if not five_safes:
        return target
    with zipfile.ZipFile(target) as archive:
        archive.extractall(bridge.root / "unpacked")
    return bridge.root / "unpacked" / wanted / "data"


def packed(
    bridge: Bridge,
    wanted: str,
    usage: Usage = accounting,
    *,
    five_safes: bool = False,
) -> Path:
    """The folder of a crate that was just packed."""
    target = bridge.root / ("bag.zip" if five_safes else "crate")
    packer(bridge, usage).pack(wanted, target, five_safes=five_safes)
    return unpacked(target, bridge, wanted, five_safes=five_safes)


def described(crate: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((crate / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in document["@graph"]}


def left_over(bridge: Bridge) -> set[str]:
    """What lies beside the bridge's own folders, hidden files too."""
    own = {"contexts", "data", "results"}
    return (
        {path.name for path in bridge.root.iterdir()}
        - own
        - {path.name for path in bridge.root.glob("slurmbridge.db*")}
    )


@BOTH
def test_a_finished_process_is_packed_with_all_that_is_known(
    bridge: Bridge, five_safes: bool
) -> None:
    wanted = finished(bridge)
    process = bridge.get(wanted)
    crate = packed(bridge, wanted, five_safes=five_safes)
    assert (crate / "script.sbatch").read_text() == bridge.processes.script(wanted)
    attested = json.loads((crate / "attestation.json").read_text())
    assert (attested["process_id"], attested["sealed"]) == (wanted, True)
    assert (crate / "trace-report.json").read_bytes() == bridge.desk.trace_report(wanted)
    assert (crate / "trace.zst").read_bytes() == TRACE
    assert (crate / "output/made/sum.csv").read_text() == "1\n"
    assert {file.path for file in process.outputs} <= {
        path.relative_to(crate).as_posix() for path in crate.rglob("*")
    }
    events = json.loads((crate / "events.json").read_text())
    assert [event["detail"] for event in events] == [e.detail for e in bridge.events(wanted)]
    assert process.traced is not None
    found = described(crate)
    assert found["trace-report.json"]["description"].endswith(f"verdict: {process.traced.verdict}")
    assert found[f"#run-{wanted}"]["containerImage"]["@id"] == f"#image-{process.image_sha256}"
    assert {n: found[f"#usage/{n}"]["value"] for n in USED} == USED


@BOTH
def test_inputs_and_code_are_told_by_their_checksums_and_are_not_there(
    bridge: Bridge, five_safes: bool
) -> None:
    wanted = finished(bridge)
    crate = packed(bridge, wanted, five_safes=five_safes)
    named = {entity.get("alternateName"): entity for entity in described(crate).values()}
    for path, content in (("/input/table.csv", INPUT), ("/code/main.py", b"pass")):
        assert named[path]["sha256"] == hashlib.sha256(content).hexdigest()
        assert not (crate / path.removeprefix("/")).exists()
    assert not [p for p in crate.rglob("*") if p.is_file() and INPUT in p.read_bytes()]


@BOTH
def test_what_has_not_ended_is_not_packed(bridge: Bridge, five_safes: bool) -> None:
    wanted = bridge.submitted()
    bridge.start(wanted)
    bridge.look()
    assert bridge.state(wanted) is ProcessState.RUNNING
    with pytest.raises(IllegalTransition, match="has not ended: it is RUNNING"):
        packed(bridge, wanted, five_safes=five_safes)
    with pytest.raises(UnknownProcess):
        packed(bridge, process_id(99), five_safes=five_safes)
    assert left_over(bridge) == set()


def changed(file: Path) -> None:
    file.write_text("2\n")


def removed_with_its_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


@BOTH
@pytest.mark.parametrize("spoil", [changed, Path.unlink, removed_with_its_folder])
def test_when_an_output_is_not_the_one_there_is_no_crate(
    bridge: Bridge, five_safes: bool, spoil: Callable[[Path], None]
) -> None:
    wanted = finished(bridge)
    spoil(bridge.root / "results/processes" / wanted / "output/made/sum.csv")
    with pytest.raises(StagingFailed):
        packed(bridge, wanted, five_safes=five_safes)
    assert left_over(bridge) == set()


@BOTH
def test_a_store_that_is_not_configured_any_more_gives_no_crate(
    bridge: Bridge, five_safes: bool
) -> None:
    wanted = finished(bridge)
    images = ImageStore(bridge.database)
    one = CratePacker(bridge.processes, images, Results({"data": bridge.root}), accounting)
    with pytest.raises(StagingFailed, match="the store results is not configured"):
        one.pack(wanted, bridge.root / "crate", five_safes=five_safes)
    assert left_over(bridge) == set()


@BOTH
def test_while_accounting_is_silent_nothing_is_written(bridge: Bridge, five_safes: bool) -> None:
    wanted = finished(bridge)
    with pytest.raises(SchedulerUnavailable):
        packed(bridge, wanted, silent, five_safes=five_safes)
    assert left_over(bridge) == set()


def test_while_accounting_does_not_know_the_end_nothing_is_written(bridge: Bridge) -> None:
    wanted = finished(bridge)
    with pytest.raises(SchedulerUnavailable, match="does not know yet how job"):
        packed(bridge, wanted, lambda _cluster, _job: {"State": "RUNNING", "End": "Unknown"})
    assert left_over(bridge) == set()


def test_a_job_that_accounting_does_not_know_yet_is_packed_without_its_use(bridge: Bridge) -> None:
    wanted = finished(bridge)
    found = described(packed(bridge, wanted, lambda _cluster, _job: {}))
    assert "resourceUsage" not in found[f"#run-{wanted}"]
    assert not [at for at in found if at.startswith("#usage/")]


@BOTH
def test_one_that_was_canceled_before_it_had_a_job_is_packed_without_asking_accounting(
    bridge: Bridge, five_safes: bool
) -> None:
    wanted = accepted(bridge)
    bridge.desk.cancel(wanted, by="tester")
    bridge.verbs.dispatcher.dispatch()
    bridge.look()
    process = bridge.get(wanted)
    assert (process.state, process.job_id) == (ProcessState.CANCELED, None)
    crate = packed(bridge, wanted, silent, five_safes=five_safes)
    files = {path.name for path in crate.rglob("*") if path.is_file()}
    assert files == {"ro-crate-metadata.json", "process.json", "events.json"}
    run = described(crate)[f"#run-{wanted}"]
    assert run["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert "result" not in run


# --- the command ---------------------------------------------------------------------------------


@dataclass
class PackingSite(PlayedSite):
    """One whose Processes are those of a bridge in memory."""

    packer: CratePacker | None = field(default=None)

    def crate_packer(self) -> CratePacker:
        """The one that was given."""
        assert self.packer is not None
        return self.packer


@pytest.fixture
def bench(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with opened() as front:
        yield Bench(front, PackingSite(front, folder=folder, packer=packer(bridge)), folder)


def test_the_command_writes_a_folder_or_a_bag_and_says_so(bridge: Bridge, bench: Bench) -> None:
    wanted = finished(bridge)
    common = ["--config", bench.configuration()]
    folder, bag = str(bench.folder / "crate"), str(bench.folder / "bag.zip")
    result = bench.run("crate", wanted, folder, *common)
    assert (result.exit_code, result.stdout) == (0, f"{folder} written\n")
    assert f"#run-{wanted}" in described(Path(folder))
    shown = bench.json("crate", wanted, bag, "--five-safes", *common)
    assert shown == {"process": wanted, "crate": bag}
    with zipfile.ZipFile(bag) as archive:
        assert f"{wanted}/data/output/made/sum.csv" in archive.namelist()


def test_the_command_refuses_in_one_sentence(bridge: Bridge, bench: Bench) -> None:
    wanted, waiting = finished(bridge), bridge.submit()
    common = ["--config", bench.configuration()]
    target = str(bench.folder / "crate")
    assert "there is no Process 'x'" in refused(bench.run("crate", "x", target, *common))
    assert "has not ended: it is QUEUED" in refused(bench.run("crate", waiting, target, *common))
    for words in ((wanted, "."), (wanted, "/"), (wanted, ".", "--five-safes")):
        said = refused(bench.run("crate", *words, *common), code=1)
        assert "exists already" in said or "is a folder" in said
    (bridge.root / "results/processes" / wanted / "output/made/sum.csv").unlink()
    said = refused(bench.run("crate", wanted, target, *common), code=1)
    assert "output/made/sum.csv cannot be read: No such file" in said
    assert not Path(target).exists()


def test_a_crate_holds_the_lock_of_what_was_installed(bridge: Bridge, tmp_path: Path) -> None:
    wanted = finished(bridge)
    bridge.processes.note([wanted], {"requirements": EQUIPMENT.found.model_dump(mode="json")})
    packer(bridge).pack(wanted, tmp_path / "crate", five_safes=False)
    lock = (tmp_path / "crate/requirements.lock").read_text()
    assert lock == f"alpha==1.0 --hash=sha256:{'8' * 64}\n"
