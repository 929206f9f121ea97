"""What a traced Process did, over HTTP, in Python, and at a terminal."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from slurmbridge.errors import BridgeUnreachable, NotTraced, StagingFailed, UnknownProcess
from slurmbridge.spec import TraceLevel
from slurmbridge.store import packed
from slurmbridge.trace import text
from slurmbridge.trace.judge import default_rules
from slurmbridge.trace.page import page
from slurmbridge.trace.read import Read, Reading, StreamFile, read
from slurmbridge.trace.report import USUAL, TraceReport
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.front import SPEC, Front, opened
from tests.support.traces import RECORDED

AUDIT = (RECORDED / "acts-audit.trace").read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "store").mkdir()
    with opened(tmp_path / "store") as front:
        yield Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)


@pytest.fixture
def front(bench: Bench) -> Front:
    return bench.front


def traced(bench: Bench, *, kept: bytes | None = None) -> tuple[str, Read]:
    """A Process that has ended, with a report, and what was read."""
    one = bench.front.client().submit(SPEC).id
    folder = bench.folder / "store/x" / one
    folder.mkdir(parents=True)
    trace = folder / "trace.zst"
    trace.write_bytes(zstandard.ZstdCompressor().compress(AUDIT) if kept is None else kept)
    streams = (StreamFile("node1", trace, cut=False),)
    found = read(Reading(one, TraceLevel.AUDIT, streams, default_rules(), None, USUAL))
    bench.front.end(
        one,
        outputs_location=f"results:x/{one}",
        traced=found.summary.model_dump(mode="json"),
        trace_report=packed(found.report),
    )
    return one, found


def test_the_report_is_what_was_read(bench: Bench, front: Front) -> None:
    one, found = traced(bench)
    response = front.http().get(f"/v1/processes/{one}/trace")
    assert response.headers["content-type"] == "application/json"
    assert response.content == found.report
    assert front.client().trace(one) == TraceReport.model_validate_json(found.report)
    process = front.client().get(one)
    assert process.traced == found.summary
    assert [entry.traced for entry in front.client().page().processes] == [found.summary]


def test_the_page_may_do_nothing(bench: Bench, front: Front) -> None:
    one, found = traced(bench)
    response = front.http().get(f"/v1/processes/{one}/trace/page")
    assert response.content == found.page == front.client().trace_page(one)
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_trace_itself_is_as_it_was_carried(bench: Bench, front: Front) -> None:
    one, _ = traced(bench)
    response = front.http().get(f"/v1/processes/{one}/trace/raw")
    assert response.headers["content-type"] == "application/zstd"
    assert response.content == (bench.folder / "store/x" / one / "trace.zst").read_bytes()
    assert b"".join(front.client().raw_trace(one)) == AUDIT


def test_a_trace_that_is_not_there_any_more_is_told(bench: Bench, front: Front) -> None:
    one, _ = traced(bench)
    (bench.folder / "store/x" / one / "trace.zst").unlink()
    with pytest.raises(StagingFailed, match=r"trace\.zst cannot be read"):
        b"".join(front.client().raw_trace(one))
    assert front.client().trace(one).process_id == one


def test_a_link_in_the_store_is_not_followed(bench: Bench, front: Front) -> None:
    one, _ = traced(bench)
    trace = bench.folder / "store/x" / one / "trace.zst"
    trace.unlink()
    trace.symlink_to("/etc/passwd")
    with pytest.raises(StagingFailed, match="symbolic link"):
        b"".join(front.client().raw_trace(one))


def test_a_trace_that_is_no_zstd_any_more_is_told(bench: Bench, front: Front) -> None:
    one, _ = traced(bench, kept=b"something else")
    with pytest.raises(BridgeUnreachable):
        b"".join(front.client().raw_trace(one))


def test_a_trace_that_ends_early_is_told(bench: Bench, front: Front) -> None:
    whole = zstandard.ZstdCompressor().compress(AUDIT)
    one, _ = traced(bench, kept=whole[: len(whole) // 2])
    with pytest.raises(BridgeUnreachable, match="end"):
        b"".join(front.client().raw_trace(one))


@pytest.mark.parametrize("call", ["trace", "trace_page", "raw_trace"])
def test_what_has_no_trace_says_why(front: Front, call: str) -> None:
    def ask(process_id: str) -> None:
        found = getattr(front.client(), call)(process_id)
        b"".join(found) if call == "raw_trace" else None

    client = front.client()
    with pytest.raises(UnknownProcess):
        ask("nobody")
    waiting = client.submit(SPEC).id
    with pytest.raises(NotTraced, match="has not ended: its trace is read then"):
        ask(waiting)
    front.end(waiting)
    with pytest.raises(NotTraced, match="has no trace: its program was not started"):
        ask(waiting)
    with pytest.raises(NotTraced, match="is not traced: its specification says off"):
        ask(client.submit(SPEC | {"trace": "off"}).id)


@pytest.mark.parametrize("view", ["summary", "files", "network", "tree"])
def test_the_terminal_shows_each_view(bench: Bench, view: str) -> None:
    one, found = traced(bench)
    report = TraceReport.model_validate_json(found.report)
    result = bench.run("trace", one, *([f"--{view}"] if view != "summary" else []))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == getattr(text, view)(report)


def test_the_terminal_gives_page_document_and_trace_as_they_are(bench: Bench) -> None:
    one, found = traced(bench)
    assert bench.run("trace", one, "--html").stdout_bytes == found.page
    assert bench.run("trace", one, "--raw").stdout_bytes == AUDIT
    assert bench.json("trace", one, "--json") == json.loads(found.report)


def test_two_views_at_once_are_refused(bench: Bench) -> None:
    one, _ = traced(bench)
    said = refused(bench.run("trace", one, "--files", "--raw"))
    assert "--files and --raw exclude each other" in said


def test_the_page_is_the_same_when_it_is_made_again(bench: Bench) -> None:
    _, found = traced(bench)
    assert page(TraceReport.model_validate_json(found.report)).encode() == found.page
