"""Traces are read beside the Runner's work; whatever happens to the reader, there is a report."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from slurmbridge.bridge.collect import READING_AGAIN
from slurmbridge.bridge.reading import ReadingProcess
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.rules import Outcome
from slurmbridge.spec import TraceLevel
from slurmbridge.trace.judge import default_rules
from slurmbridge.trace.read import Decompressed, Reading, StreamFile, read, read_stream
from slurmbridge.trace.report import USUAL, Doubt, TraceReport
from tests.support.builders import Bridge, end
from tests.support.traces import RECORDED

AUDIT = (RECORDED / "acts-audit.trace").read_bytes()
PACKED = zstandard.ZstdCompressor().compress(AUDIT)


def stream(path: Path, *, cut: bool = False) -> StreamFile:
    return StreamFile("node1", path, cut)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "trace.zst"
    path.write_bytes(PACKED)
    return path


def reading(*streams: StreamFile) -> Reading:
    return Reading("p1", TraceLevel.AUDIT, streams, default_rules(), None, USUAL)


def test_a_whole_trace_has_no_doubt_of_its_own(kept: Path) -> None:
    report = read_stream(stream(kept), TraceLevel.AUDIT, USUAL)
    assert report.name == "node1"
    assert report.processes.total > 1
    assert not {Doubt.BROKEN, Doubt.CUT} & set(report.doubts)


@pytest.mark.parametrize("bytes_kept", [0, 1, 10, len(PACKED) // 2, len(PACKED) - 1])
def test_a_trace_that_ends_early_is_broken(kept: Path, bytes_kept: int) -> None:
    kept.write_bytes(PACKED[:bytes_kept])
    assert Doubt.BROKEN in read_stream(stream(kept), TraceLevel.AUDIT, USUAL).doubts


@pytest.mark.parametrize("more", [b"x", PACKED, b"\0" * 200_000])
def test_a_trace_with_something_behind_it_is_broken(kept: Path, more: bytes) -> None:
    kept.write_bytes(PACKED + more)
    assert Doubt.BROKEN in read_stream(stream(kept), TraceLevel.AUDIT, USUAL).doubts


def test_a_trace_that_was_changed_is_broken(kept: Path) -> None:
    changed = bytearray(PACKED)
    changed[len(changed) // 2] ^= 255
    kept.write_bytes(changed)
    assert Doubt.BROKEN in read_stream(stream(kept), TraceLevel.AUDIT, USUAL).doubts


def test_a_frame_that_asks_for_too_much_memory_is_broken(kept: Path) -> None:
    far = zstandard.ZstdCompressionParameters.from_level(3, window_log=29)
    packer = zstandard.ZstdCompressor(compression_params=far).compressobj()
    kept.write_bytes(packer.compress(AUDIT) + packer.flush())
    assert Doubt.BROKEN in read_stream(stream(kept), TraceLevel.AUDIT, USUAL).doubts


def test_a_missing_trace_is_broken(tmp_path: Path) -> None:
    assert Doubt.BROKEN in read_stream(stream(tmp_path / "none"), TraceLevel.AUDIT, USUAL).doubts


def test_a_cut_trace_says_so(kept: Path) -> None:
    assert Doubt.CUT in read_stream(stream(kept, cut=True), TraceLevel.AUDIT, USUAL).doubts


def test_pieces_of_any_size_give_the_text(kept: Path) -> None:
    with kept.open("rb") as file:
        text = Decompressed(file)
        assert b"".join(text) == AUDIT
    assert text.whole


def test_without_a_stream_the_verdict_is_fail() -> None:
    found = read(reading())
    assert found.summary.verdict is Outcome.FAIL
    assert TraceReport.model_validate_json(found.report).streams == ()


def test_two_streams_are_both_in_the_report(kept: Path) -> None:
    found = read(reading(stream(kept), StreamFile("node2", kept, cut=True)))
    report = TraceReport.model_validate_json(found.report)
    assert [entry.name for entry in report.streams] == ["node1", "node2"]
    assert Doubt.CUT in report.streams[1].doubts
    assert found.summary.processes == 2 * report.streams[0].processes.total


# --- within the bridge ---------------------------------------------------------------------------


@dataclass
class ByHand(Executor):
    """Does nothing until it is told to."""

    waiting: list[tuple[Future[Any], Callable[..., Any], Reading]] = field(default_factory=list)
    ended: bool = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args[0]))
        return future

    def work(self) -> None:
        """Do the oldest."""
        future, action, reading = self.waiting.pop(0)
        future.set_result(action(reading))

    def die(self) -> None:
        """As when its process was killed."""
        for future, *_ in self.waiting:
            future.set_exception(BrokenExecutor("killed"))
        self.waiting.clear()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = True


@dataclass
class Hands:
    """Every executor that was made."""

    made: list[ByHand] = field(default_factory=list)

    def __call__(self) -> ByHand:
        self.made.append(ByHand())
        return self.made[-1]

    @property
    def last(self) -> ByHand:
        return self.made[-1]


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def bridge(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    monkeypatch.setattr("slurmbridge.bridge.collect.PATIENCE_SECONDS", 0.0)
    made = Bridge(tmp_path, new_executor=hands)
    yield made
    made.verbs.collector.close()


def run(bridge: Bridge, *, level: str = "audit", kept: bytes | None = PACKED) -> str:
    """A Process whose job has ended."""
    wanted = bridge.submitted(trace=level)
    bridge.start(wanted)
    if kept is not None:
        bridge.leave(wanted, {"trace.zst": kept})
    end(bridge, wanted)
    return wanted


def run_on_nodes(bridge: Bridge, *packed: bytes | None) -> str:
    """A Process on several nodes, with the trace of each."""
    table = {"kind": "pods", "nodes": len(packed)}
    wanted = bridge.submitted(trace="audit", parallel=table)
    bridge.start(wanted)
    names = ["trace.zst", *(f"pods/sb{pod}/trace.zst" for pod in range(2, len(packed) + 1))]
    traces = {name: one for name, one in zip(names, packed, strict=True) if one is not None}
    nodes = ",".join(f"node{number}" for number in range(1, len(packed) + 1))
    bridge.leave(wanted, traces)
    end(bridge, wanted)
    bridge.leave(wanted, {"attested": f"{nodes} 1772600767\n"})
    return wanted


def look_again(bridge: Bridge) -> None:
    bridge.advance(READING_AGAIN)
    bridge.look()


def test_a_process_ends_when_its_trace_is_read(bridge: Bridge, hands: Hands) -> None:
    wanted = run(bridge)
    bridge.look()
    assert bridge.state(wanted) is ProcessState.RUNNING
    hands.last.work()
    look_again(bridge)
    process = bridge.get(wanted)
    assert process.state is ProcessState.COMPLETE
    assert process.traced is not None
    assert {"trace.zst", "trace-report.json", "trace-report.html"} <= {
        file.path for file in process.outputs
    }
    report = TraceReport.model_validate_json(bridge.desk.trace_report(wanted))
    assert report.process_id == wanted
    assert report.verdict.outcome is process.traced.verdict
    folder = bridge.root / "results/processes" / wanted
    assert (folder / "trace-report.json").read_bytes() == bridge.desk.trace_report(wanted)
    with bridge.desk.open_trace(wanted) as file:
        assert file.read(1 << 20) == PACKED


def test_others_are_collected_while_a_trace_is_read(bridge: Bridge, hands: Hands) -> None:
    traced, plain = run(bridge), run(bridge, level="off", kept=None)
    bridge.look()
    assert bridge.state(traced) is ProcessState.RUNNING
    assert bridge.state(plain) is ProcessState.COMPLETE
    assert bridge.get(plain).traced is None


def test_waiting_for_a_trace_is_not_told_again_and_again(bridge: Bridge, hands: Hands) -> None:
    wanted = run(bridge)
    bridge.look()
    before = len(bridge.events(wanted))
    for _ in range(5):
        look_again(bridge)
    assert len(bridge.events(wanted)) == before


def test_a_reader_that_was_killed_begins_again(bridge: Bridge, hands: Hands) -> None:
    wanted = run(bridge)
    bridge.look()
    hands.last.die()
    look_again(bridge)
    assert len(hands.made) == 2
    hands.last.work()
    look_again(bridge)
    process = bridge.get(wanted)
    assert process.traced is not None
    assert process.traced.processes > 0


def test_a_trace_that_kills_its_reader_twice_fails(bridge: Bridge, hands: Hands) -> None:
    deadly, other = run(bridge), run(bridge)
    bridge.look()
    for _ in range(8):
        # The one dies whenever it is its turn; the other is read when it is first in line.
        if hands.last.waiting:
            kills = hands.last.waiting[0][2].process_id == deadly
            hands.last.die() if kills else hands.last.work()
        look_again(bridge)
    failed, read_well = bridge.get(deadly).traced, bridge.get(other).traced
    assert failed is not None
    assert failed.verdict is Outcome.FAIL
    assert failed.processes == 0
    assert read_well is not None
    assert read_well.processes > 0


def test_a_mistake_of_the_reader_fails_the_trace_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("slurmbridge.bridge.reading.read", mistake)
    bridge = Bridge(tmp_path)
    wanted = run(bridge)
    bridge.look()
    process = bridge.get(wanted)
    assert process.state is ProcessState.COMPLETE
    assert process.traced is not None
    assert process.traced.verdict is Outcome.FAIL


def test_a_traced_process_without_a_trace_fails(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    wanted = run(bridge, kept=None)
    bridge.look()
    traced = bridge.get(wanted).traced
    assert traced is not None
    assert traced.verdict is Outcome.FAIL


def test_a_program_that_was_stopped_is_the_submitters_to_mend(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    wanted = bridge.submitted(trace="audit")
    bridge.start(wanted)
    bridge.leave(
        wanted,
        {"trace.zst": PACKED, "stopped": "its trace has reached its limit\n", "trace.cut": "9\n"},
    )
    end(bridge, wanted, SlurmState.FAILED, 137)
    bridge.look()
    process = bridge.get(wanted)
    assert process.state is ProcessState.EXECUTOR_ERROR
    assert process.reason == "it was stopped: its trace has reached its limit"
    assert process.traced is not None
    assert "cut" in process.traced.doubts
    assert process.traced.verdict is not Outcome.PASS


def test_what_was_staged_is_kept_with_its_checksums(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    (bridge.root / "data/in").mkdir()
    (bridge.root / "data/in/a.txt").write_text("a")
    (bridge.root / "data/main.py").write_text("pass")
    wanted = bridge.submitted(code={"source": "data:main.py"}, inputs=[{"source": "data:in"}])
    found = {file.path: file.size_bytes for file in bridge.get(wanted).inputs}
    assert found == {"code/main.py": 4, "input/in/a.txt": 1}


# --- the real process ----------------------------------------------------------------------------


def test_a_process_of_its_own_reads(kept: Path) -> None:
    executor = ReadingProcess()
    try:
        found = executor.submit(read, reading(stream(kept))).result(timeout=60)
        assert found == read(reading(stream(kept)))
        pid = executor.submit(os.getpid).result(timeout=60)
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenExecutor):
            executor.submit(read, reading(stream(kept))).result(timeout=60)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def test_the_process_ends_with_its_runner() -> None:
    argv = [sys.executable, "-c", RUNNER]
    root, quiet = Path(__file__).parents[2], subprocess.DEVNULL
    with subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=quiet) as runner:
        assert runner.stdout is not None
        reader = os.pidfd_open(int(runner.stdout.readline()))
        runner.kill()
    try:
        assert select.select([reader], [], [], 20)[0], "it goes on without its Runner"
    finally:
        os.close(reader)


RUNNER = """
import os, time
from slurmbridge.bridge.reading import ReadingProcess
if __name__ == "__main__":
    print(ReadingProcess().submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_every_node_has_its_part_of_the_report(bridge: Bridge, hands: Hands) -> None:
    wanted = run_on_nodes(bridge, PACKED, PACKED, PACKED)
    bridge.look()
    hands.last.work()
    look_again(bridge)
    report = TraceReport.model_validate_json(bridge.desk.trace_report(wanted))
    assert [found.name for found in report.streams] == ["node1", "node2", "node3"]
    assert not {Doubt.BROKEN, Doubt.CUT} & {doubt for one in report.streams for doubt in one.doubts}
    names = {file.path for file in bridge.get(wanted).outputs}
    assert {"trace.zst", "trace.sb2.zst", "trace.sb3.zst"} <= names


def test_a_node_without_a_record_is_not_passed_over(bridge: Bridge, hands: Hands) -> None:
    wanted = run_on_nodes(bridge, PACKED, None)
    bridge.look()
    hands.last.work()
    look_again(bridge)
    report = TraceReport.model_validate_json(bridge.desk.trace_report(wanted))
    assert [(one.name, Doubt.BROKEN in one.doubts) for one in report.streams] == [
        ("node1", False),
        ("node2", True),
    ]
    assert report.verdict.outcome is Outcome.FAIL
