"""What a record that is missing, or not whole, is worth, whatever the rules are."""

import pytest

from slurmbridge.rules import Doubt, Outcome
from slurmbridge.trace.judge import SiteRules, judge
from slurmbridge.trace.record import RECORD
from slurmbridge.trace.report import FORBIDS_PASS
from tests.support.happenings import report_of
from tests.support.judging import NO_RULES, doubtful, rules, told


@pytest.mark.parametrize("doubt", [doubt for doubt in Doubt if FORBIDS_PASS[doubt]])
def test_a_record_that_is_not_whole_never_passes(doubt: Doubt) -> None:
    streams = doubtful(doubt)
    assert doubt in streams[0].doubts
    verdict = judge([*streams, report_of()], NO_RULES)
    assert verdict.outcome is RECORD[doubt] is not Outcome.PASS
    found = verdict.findings[0]
    assert (found.rule, found.source) == (f"record: {doubt}", "record")
    assert found.evidence
    strict = SiteRules(rules({"kind": "record", "doubts": [doubt]}), "")
    assert judge(streams, strict).outcome is Outcome.FAIL


def test_the_lines_of_a_doubt_are_named() -> None:
    lines = {
        doubt: told(judge(doubtful(doubt), NO_RULES))
        for doubt in (Doubt.UNREADABLE_LINES, Doubt.MISSED_CALLS, Doubt.REMARKS, Doubt.NOT_ENDED)
    }
    assert lines == {
        Doubt.UNREADABLE_LINES: [(4, "\\xff")],
        Doubt.MISSED_CALLS: [(4, "one call of process 7 after this line")],
        Doubt.REMARKS: [(4, "strace: x")],
        Doubt.NOT_ENDED: [(1, "process 7 starts, and its end is not told")],
    }


def test_without_a_record_the_verdict_is_fail() -> None:
    verdict = judge([], NO_RULES)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.findings[0].message.startswith("there is no record")


def test_every_doubt_that_forbids_a_pass_has_an_outcome() -> None:
    assert set(RECORD) == set(Doubt)
    for doubt, outcome in RECORD.items():
        assert (outcome is not Outcome.PASS) is FORBIDS_PASS[doubt]
