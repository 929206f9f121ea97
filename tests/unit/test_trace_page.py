"""The page for a data owner, the schema of the report, and what docs/trace.md says of both."""

import json
import re
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from slurmbridge.rules import Outcome, Place
from slurmbridge.spec import TraceLevel
from slurmbridge.trace import Follower
from slurmbridge.trace import events as ev
from slurmbridge.trace.drawing import LANES, LEFT, RIGHT, drawn
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import fold
from slurmbridge.trace.markup import Markup, clipped, name, tag, told
from slurmbridge.trace.page import NODES, POLICY, page
from slurmbridge.trace.report import (
    USUAL,
    Act,
    Doubt,
    Evidence,
    Finding,
    Limits,
    StreamReport,
    TraceReport,
    Verdict,
)
from slurmbridge.trace.schema import schema, schema_text
from slurmbridge.trace.words import DOUBTS, PLACES
from tests.support.traces import RECORDED
from tests.unit.test_trace_report import EVENTS, KEY, SMALL, opened, report_of
from tests.unit.test_trace_text import FINDING, tasks_of

DOCS = Path(__file__).parents[2] / "docs"
EVIL = (
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "]]></style><!--",
    "&lt;b&gt;",
    "javascript:alert(1)",
)


class Page(HTMLParser):
    """Reads a page; every element must be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        # Each text with the elements that it stands in.
        self.texts: list[tuple[str, str]] = []
        self.others: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        assert len(dict(attrs)) == len(attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((" ".join(self.open), data))

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_decl(self, decl: str) -> None:
        self.others.append(decl)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def all(self, tag: str, class_: str = "") -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if not class_ or class_ in a.get("class", "").split()]

    @property
    def text(self) -> str:
        return "".join(data for where, data in self.texts if not where.endswith("style"))


def checked(report: TraceReport) -> Page:
    """The page of a report, after the checks that every page has to stand."""
    text = page(report)
    assert page(report) == text
    assert text.replace("\n", "").isprintable()
    found = Page(text)
    assert found.others == ["DOCTYPE html"]
    assert {element for element, _ in found.elements} <= set(ELEMENTS.split())
    known = set(ATTRIBUTES.split())
    for _, attributes in found.elements:
        for key, value in attributes.items():
            assert key in known
            assert key != "href" or re.fullmatch("#[a-z0-9-]+", value)
            assert "url(" not in value
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for a in found.all("a")} <= set(ids)
    return found


ELEMENTS = """
html head meta title style body header main section footer h1 h2 h3 h4 p ul ol li a b i u code
strong span div table thead tbody tr th td details summary figure figcaption svg desc path rect text
"""
ATTRIBUTES = """
lang charset http-equiv content name class id href scope open role aria-labelledby viewbox x y
width height d transform text-anchor
"""


def told_of(
    *streams: StreamReport,
    findings: tuple[Finding, ...] = (),
    outcome: Outcome = Outcome.PASS,
    level: TraceLevel = TraceLevel.AUDIT,
) -> TraceReport:
    verdict = Verdict(outcome=outcome, findings=findings, rules=2, rules_sha256="0" * 64)
    return TraceReport(process_id="01m8", level=level, streams=streams, verdict=verdict)


@pytest.fixture(scope="module")
def acts() -> StreamReport:
    trace = (RECORDED / "acts-audit.trace").read_bytes()
    return fold(Follower().events([trace]), USUAL, "a")


@pytest.fixture(scope="module")
def acts_page(acts: StreamReport) -> Page:
    return checked(told_of(acts, findings=(FINDING,), outcome=Outcome.FAIL))


def many(count: int, length: int = 1_000_000) -> StreamReport:
    """Processes that start one after the other, each a little longer than the one before."""
    events: list[ev.Happening] = [ev.Started(1, 0, Key(1, 1), None, True)]
    for n in range(2, count + 1):
        events.append(ev.Started(n, n * length, Key(n, n), Key(1, 1), True))
        events.append(ev.Executed(n, n * length, Key(n, n), b"/usr/bin/w", (b"w",), True, ""))
    ends = [ev.Ended(n + count, (count + n) * length, Key(n, n), 0, None) for n in range(2, count)]
    return fold([*events, *ends], USUAL)


def test_the_page_asks_for_nothing_from_elsewhere(acts_page: Page) -> None:
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in acts_page.all("meta")
    assert POLICY == "default-src 'none'; style-src 'unsafe-inline'"
    style = "".join(data for where, data in acts_page.texts if where.endswith("style"))
    assert not re.search(r"url\(|@import|@font-face|<", style)
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_the_verdict_comes_first_with_what_decided(acts_page: Page) -> None:
    text = acts_page.text
    assert text.index("✗ fail") < text.index("uses of the network: 3") < text.index("What ran")
    assert text.index("1 more line") < text.index(DOUBTS[Doubt.MISSED_CALLS])
    assert "Nothing can pass with this doubt." in text


def test_the_tree_tells_every_process(acts: StreamReport, acts_page: Page) -> None:
    assert len(acts_page.all("div", "process")) == 26
    text = acts_page.text
    for process in acts.processes.entries:
        assert str(process.key.pid) in text
    assert "killed by SIGTERM" in text
    assert "exit code 7" in text
    depths = [where.count("ul li") for where, data in acts_page.texts if data == "11167"]
    assert max(depths) == 4


def test_the_unexpected_is_first_among_the_files_and_loud(acts_page: Page) -> None:
    heads = [data for where, data in acts_page.texts if where.endswith("section section h3")]
    assert heads[0] == "⚠ unexpected"
    assert len(acts_page.all("section", "loud")) == 1
    calm = checked(told_of(report_of(opened(b"/input/x"))))
    assert not calm.all("section", "loud")
    assert "Nothing was done there, and nothing was tried." in calm.text


def test_what_failed_is_told_beside_what_was_done(acts_page: Page) -> None:
    for words in ("/etc/passwd", "EROFS", "ENETUNREACH", "unshare", "hard link to", "SIGSEGV"):
        assert words in acts_page.text


def test_bytes_are_shown_where_they_were_counted() -> None:
    moved = ev.Transferred(3, 3_000_000, KEY, b"/input/x", 1234567, 0)
    stream = report_of(opened(b"/input/x"), moved)
    assert "1,234,567" in checked(told_of(stream, level=TraceLevel.FULL)).text
    audit = checked(told_of(report_of(opened(b"/input/x")))).text
    assert "bytes read" not in audit
    assert "how many bytes were read" in audit


def test_bars_and_marks_are_in_proportion_to_time() -> None:
    events: list[ev.Happening] = [
        ev.Started(1, 0, KEY, None, True),
        ev.Started(2, 2_000_000, Key(8, 2), KEY, True),
        opened(b"/input/x"),
        ev.Refused(5, 6_000_000, Key(8, 2), "bpf", b"", "EPERM"),
        ev.Ended(6, 8_000_000, Key(8, 2), 1, None),
        ev.Ended(7, 10_000_000, KEY, 0, None),
    ]
    found = checked(told_of(fold(events, USUAL)))
    wide = RIGHT - LEFT
    bars = [(float(bar["x"]), float(bar["width"])) for bar in found.all("rect", "bar")]
    assert bars == [(LEFT, wide), (LEFT + wide * 0.2, wide * 0.6)]
    marks = [mark["transform"] for mark in found.all("path", "refused")]
    assert [float(mark[10:].split()[0]) for mark in marks] == [LEFT + wide * 0.6] * 2
    assert [float(mark["transform"][10:].split()[0]) for mark in found.all("path", "input")] == [
        LEFT + wide * 0.2
    ]
    ticks = [data for where, data in found.texts if where.endswith("svg text")]
    assert [tick for tick in ticks if tick.isdecimal()][::2] == [str(n) for n in range(11)]


def test_a_process_without_an_end_goes_on_to_the_edge() -> None:
    events: list[ev.Happening] = [
        ev.Started(1, 0, KEY, None, True),
        ev.Refused(2, 1_000_000, KEY, "a", b"", "EPERM"),
    ]
    (bar,) = checked(told_of(fold(events, USUAL))).all("rect", "open")
    assert float(bar["x"]) + float(bar["width"]) == RIGHT


def test_every_process_has_a_lane_up_to_the_limit() -> None:
    found = checked(told_of(many(LANES)))
    assert len(found.all("rect", "bar")) == LANES
    assert not found.all("path", "alive")
    labels = [data for where, data in found.texts if where.endswith("svg svg text")]
    assert {f"{n} w" for n in range(2, LANES + 1)} <= set(labels)


def test_of_many_processes_the_most_telling_are_drawn() -> None:
    stream = many(3000)
    refused = ev.Refused(9000, 5_000, Key(500, 500), "bpf", b"", "EPERM")
    marked = report_of(refused)
    update = {"timeline": marked.timeline, "refused": marked.refused}
    lanes = drawn(stream.model_copy(update=update))
    assert len(lanes) == LANES
    assert {1, 500} <= {entry.key.pid for entry in lanes}
    found = checked(told_of(stream))
    assert len(found.all("rect", "bar")) == LANES
    assert len(found.all("path", "alive")) == 1
    assert "60 of 3,000 processes are drawn" in found.text
    assert "2,000 processes are not listed in the report at all" in found.text
    assert len(page(told_of(stream))) < 1_000_000


def test_the_usual_page_is_small(acts: StreamReport) -> None:
    assert len(page(told_of(acts)).encode()) < 100_000


def test_nodes_and_tasks_are_one_below_the_other(acts: StreamReport) -> None:
    found = checked(told_of(acts, tasks_of(3).model_copy(update={"name": "b"})))
    assert [node["id"] for node in found.all("section", "node")] == ["node-1", "node-2"]
    assert [a["href"] for a in found.all("a")] == ["#node-1", "#node-2"]
    assert [data for _, data in found.texts if data.startswith("task ")] == [
        "task 1 ",
        "task 2 ",
        "task 3 ",
    ]


def test_of_many_nodes_those_with_findings_are_told() -> None:
    nodes = [report_of().model_copy(update={"name": f"n{n}"}) for n in range(200)]
    evidence = (Evidence(stream="n150", line=1, text="x"),)
    finding = FINDING.model_copy(update={"evidence": evidence})
    found = checked(told_of(*nodes, findings=(finding,), outcome=Outcome.FAIL))
    told_in_full = [node["id"] for node in found.all("section", "node")]
    assert len(told_in_full) == NODES
    assert told_in_full[-1] == "node-151"
    assert "64 of 200 nodes are told in full" in found.text


def test_a_process_without_any_record_has_a_page() -> None:
    found = checked(told_of(outcome=Outcome.FAIL))
    assert "There is no record at all." in found.text


def evil_events(text: str) -> list[ev.Happening]:
    raw, key = text.encode(), KEY
    path = b"/tmp/" + raw
    address = ev.Address(text, raw, 1)
    return [
        ev.Executed(2, 2, key, path, (raw, raw), True, ""),
        ev.Executed(2, 2, key, path, (raw,), True, text),
        opened(path),
        opened(b"/nowhere/" + raw),
        opened(path, error=text),
        ev.Renamed(3, 3, key, path, raw, False, ""),
        ev.Linked(3, 3, key, raw, path, True, text),
        ev.Contacted(4, 4, key, ev.Contact.CONNECT, address, text),
        ev.Contacted(4, 4, key, ev.Contact.SEND, address, ""),
        ev.SocketMade(4, 4, key, text, text, text, ""),
        ev.SignalSent(5, 5, key, text, 3, text, text),
        ev.Signalled(5, 5, key, text, 3),
        ev.Unusual(6, 6, key, text, raw, text),
        ev.Refused(6, 6, key, text, raw, text),
        ev.Changed(6, 6, key, path, ev.Change.MODE, raw, ""),
        ev.Remarked(7, raw),
        ev.Unreadable(8, raw),
        ev.Started(9, 9, Key(8, 2), key, False),
        ev.Ended(9, 9, Key(8, 2), None, text),
    ]


@pytest.mark.parametrize("text", EVIL)
def test_what_the_program_says_is_never_markup(text: str) -> None:
    stream = report_of(*evil_events(text)).model_copy(update={"name": text})
    finding = Finding(
        rule=text,
        source="process",
        outcome=Outcome.FAIL,
        message=text,
        evidence=(Evidence(stream=text, line=1, text=text),),
        left_out=0,
    )
    for streams in ((stream,), (stream, stream)):
        report = told_of(*streams, findings=(finding,)).model_copy(update={"process_id": text})
        found = checked(report)
        assert found.text.count(text) > 20
        if escape(text) != text:
            assert text not in page(report)


def test_signs_that_cannot_be_printed_are_told_by_number() -> None:
    stream = report_of(*evil_events("a\x1b[2J\x00\n\u202eb\u200b\ud7ff"))
    found = checked(told_of(stream.model_copy(update={"name": "\x9b\u2066\ud800"})))
    assert "a\\x1b[2J\\x00\\x0a\\xe2\\x80\\xaeb" in found.text
    assert checked(told_of(stream, stream.model_copy(update={"name": "\u2066"}))).text.count(
        "\\u2066"
    )


def test_signs_that_look_like_others_are_underlined() -> None:
    assert name("/input/\u0430.csv") == "<code>/input/<u>\u0430</u>.csv</code>"


def test_a_long_text_loses_its_middle_and_says_so() -> None:
    assert clipped("a" * 400) == ("a" * 240, 80, "a" * 80)
    assert clipped("a" * 320) == ("a" * 320, 0, "")
    assert "[80 signs left out]" in name("a" * 400)


def test_only_markup_is_not_escaped() -> None:
    assert (
        tag("p", "<b>", tag("b", "&"), class_='"') == '<p class="&quot;">&lt;b&gt;<b>&amp;</b></p>'
    )
    assert told(Markup("<b>")) == "<b>"
    assert told("<b>" + Markup("<b>")) == "&lt;b&gt;&lt;b&gt;"


def largest() -> StreamReport:
    """Every list is long, and of long names that take most room."""
    limits, size, key = USUAL, USUAL.name_bytes - 10, KEY
    happened: list[ev.Happening] = [ev.Started(1, 1, KEY, None, True)]
    for n in range(300):
        raw = b"%d" % n + b"'\xc3\xa9" * (size // 3)
        child, time = Key(n + 9, n + 9), n * 1_000_003
        happened.append(ev.Started(n, time, child, key, False))
        for _ in range(3):
            happened.append(ev.Executed(n, time, child, b"/tmp/" + raw, (raw,) * 3, True, ""))
        for folder in (
            b"/input/",
            b"/output/",
            b"/tmp/",
            b"/usr/",
            b"/code/",
            b"/requirements/",
            b"/x/",
        ):
            happened.append(opened(folder + raw, line=n))
            happened.append(opened(folder + raw, error="E", line=n))
        happened.append(ev.Renamed(n, time, child, raw, b"/tmp/" + raw, False, ""))
        address = ev.Address("AF_UNIX", raw, None)
        happened.append(ev.Contacted(n, time, child, ev.Contact.CONNECT, address, ""))
        happened.append(ev.Contacted(n, time, child, ev.Contact.CONNECT, address, "E"))
        happened.append(ev.Refused(n, time, child, f"c{n}", raw, "EPERM"))
        happened.append(ev.Unusual(n, time, child, f"c{n}", raw, ""))
        happened.append(ev.SignalSent(n, time, child, f"c{n}", 3, "SIGX", ""))
        happened.append(ev.Remarked(n, raw))
        happened.append(ev.Unreadable(n, raw))
    return fold(happened, limits)


def test_the_largest_page_is_bounded() -> None:
    stream = largest()
    once = len(page(told_of(stream)).encode())
    assert 1_000_000 < once < 8_000_000
    nodes = [stream.model_copy(update={"name": f"n{n}"}) for n in range(3)]
    assert len(page(told_of(*nodes)).encode()) < 16_000_000


@settings(max_examples=40, deadline=None)
@given(EVENTS, SMALL)
def test_whatever_happened_has_a_page(events: list[ev.Happening], limits: Limits) -> None:
    stream = fold(events, limits, "a")
    for level in (TraceLevel.AUDIT, TraceLevel.FULL):
        found = checked(told_of(stream, level=level))
        assert len(found.all("rect", "bar")) == len(stream.processes.entries)
        assert len(found.all("div", "process")) == len(stream.processes.entries)


@settings(max_examples=20, deadline=None)
@given(EVENTS, EVENTS)
def test_nodes_of_any_sort_have_a_page(one: list[ev.Happening], two: list[ev.Happening]) -> None:
    report = told_of(fold(one, USUAL, "a"), fold(two, USUAL, "b"), findings=(FINDING,))
    assert len(page(report)) < 200_000
    checked(report)


def test_the_published_schema_is_up_to_date() -> None:
    assert (DOCS / "trace-report.schema.json").read_text() == schema_text()
    assert schema()["$id"] == "urn:slurmbridge:trace-report:1"


JSON_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def problems(node: Any, rule: dict[str, Any], defs: dict[str, Any]) -> Iterator[str]:
    """What of a JSON document a schema forbids, for the words of JSON Schema that ours uses."""
    if "$ref" in rule:
        yield from problems(node, defs[rule["$ref"].removeprefix("#/$defs/")], defs)
    if "anyOf" in rule and all(list(problems(node, way, defs)) for way in rule["anyOf"]):
        yield f"none of its ways: {node}"
    if node not in rule.get("enum", [node]) or node != rule.get("const", node):
        yield f"not one of these: {node}"
    kind = rule.get("type")
    if kind and not isinstance(node, JSON_TYPES[kind]):
        yield f"not of type {kind}: {node}"
    elif kind == "array":
        yield from (found for item in node for found in problems(item, rule["items"], defs))
    elif kind == "object":
        yield from problems_of_object(node, rule, defs)


def problems_of_object(
    node: dict[str, Any], rule: dict[str, Any], defs: dict[str, Any]
) -> Iterator[str]:
    known, other = rule.get("properties", {}), rule.get("additionalProperties")
    yield from (f"missing: {key}" for key in set(rule.get("required", ())) - set(node))
    for key, item in node.items():
        if key not in known and other is False:
            yield f"unknown: {key}"
        yield from problems(item, known.get(key, other or {}), defs)


def test_a_report_is_what_its_schema_says(acts: StreamReport) -> None:
    report = told_of(acts, findings=(FINDING,), outcome=Outcome.FAIL)
    document = json.loads(report.json_text())
    rules = schema(), schema()["$defs"]
    assert list(problems(document, *rules)) == []
    document["streams"][0]["doubts"] = ["none at all"]
    del document["verdict"]["rules"]
    assert len(list(problems(document, *rules))) == 2


def test_every_word_of_the_report_is_explained() -> None:
    text = (DOCS / "trace.md").read_text()
    for word in (*Place, *Act, *Doubt):
        assert f"| `{word}` |" in text, word
    assert set(PLACES) == set(Place)
    assert set(DOUBTS) == set(Doubt)


def test_a_parent_that_is_not_certain_is_said_to_be_so() -> None:
    first, second = ev.Key(7, 1), ev.Key(8, 2)
    events: list[ev.Happening] = [
        ev.Started(1, 1, first, None, True),
        ev.Started(2, 2, second, first, False),
        ev.Ended(3, 3, second, 0, None),
        ev.Ended(4, 4, first, 0, None),
    ]
    assert "not certain who started it" in page(told_of(fold(events, USUAL)))
