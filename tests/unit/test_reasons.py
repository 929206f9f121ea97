"""Why a job waits, in a sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.scheduler.reasons import explain, is_limit


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Priority", "other jobs come first"),
        ("Resources", "waits for nodes"),
        ("JobHeldAdmin", "scontrol release"),
        ("DependencyNeverSatisfied", "will never start"),
        ("QOSMaxJobsPerUserLimit", "a limit of its QOS is reached (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpCPUMinutesLimit", "a limit of its account or user is reached"),
        ("AssocMaxJobsLimit", "a limit of its account or user is reached"),
        ("ReqNodeNotAvail, UnavailableNodes:node1", "a node that it needs is down"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_a_reason_is_explained(reason: str, part: str) -> None:
    sentence = explain(reason)
    assert sentence is not None
    assert sentence.startswith("it waits")
    assert part in sentence


def test_without_a_reason_there_is_no_sentence() -> None:
    assert explain(None) is None
    assert explain("") is None


@pytest.mark.parametrize("reason", ["QOSGrpNodeLimit", "AssocMaxJobsLimit", "QOSMinGRES"])
def test_limits_are_told_from_other_reasons(reason: str) -> None:
    assert is_limit(reason)


@pytest.mark.parametrize("reason", [None, "", "Priority", "QOSNotAllowed", "Association"])
def test_other_reasons_are_no_limits(reason: str | None) -> None:
    assert not is_limit(reason)


@given(st.text(min_size=1))
def test_whatever_slurm_says_is_told(reason: str) -> None:
    assert str(explain(reason)).startswith("it waits")
