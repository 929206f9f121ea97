"""Rules, doubtful records, and what a verdict names."""

from typing import Any

from slurmbridge.rules import Doubt, TraceRules
from slurmbridge.trace import events as ev
from slurmbridge.trace.fold import Folding
from slurmbridge.trace.judge import SiteRules
from slurmbridge.trace.report import USUAL, StreamReport, Verdict
from tests.support.happenings import END, KEY, START

NO_RULES = SiteRules(TraceRules(), "0" * 64)


def rules(*given: dict[str, Any]) -> TraceRules:
    """Rules that fail what breaks them, named r0, r1 and so on."""
    named = [{"name": f"r{i}", "then": "fail", **rule} for i, rule in enumerate(given)]
    return TraceRules.model_validate({"rules": named}, strict=False)


def told(verdict: Verdict) -> list[tuple[int, str]]:
    """The lines that are named, of all findings."""
    return [(item.line, item.text) for found in verdict.findings for item in found.evidence]


def doubtful(doubt: Doubt) -> list[StreamReport]:
    """The shortest report with a doubt."""
    events: dict[Doubt, list[ev.Happening]] = {
        Doubt.NO_PROGRAM: [],
        Doubt.UNREADABLE_LINES: [START, ev.Unreadable(4, b"\xff"), END],
        Doubt.MISSED_CALLS: [START, ev.Missed(4, 4, KEY), END],
        Doubt.REMARKS: [START, ev.Remarked(4, b"strace: x"), END],
        Doubt.NOT_ENDED: [START],
    }
    folding = Folding(USUAL)
    for event in events.get(doubt, [START, END]):
        folding.add(event)
    return [folding.report("node1", doubts=[doubt])]
