"""Only code that a site has approved."""

import hashlib
from dataclasses import replace

import pytest

from slurmbridge.bridge.checks import Rules, check
from slurmbridge.context.approval import Approved
from slurmbridge.context.digests import tree_sha256
from slurmbridge.errors import InvalidProcess, StagingFailed
from slurmbridge.lifecycle import ProcessState
from slurmbridge.spec import SANE_COMMAND
from tests.support.builders import Bridge
from tests.support.specs import IMAGE, spec

SCRIPT = b"print('approved')\n"
DIGEST = tree_sha256([("script.py", hashlib.sha256(SCRIPT).hexdigest())])
RULES = Rules(
    frozenset({"data"}), frozenset({"results"}), has_default_destination=True, approved_only=True
)
SANE = {"contract": "sane", "command": SANE_COMMAND, "code": {"source": "data:project"}}


@pytest.fixture
def site(bridge: Bridge) -> Bridge:
    """One that runs only what stands in `approved`."""
    dispatcher = bridge.verbs.dispatcher
    dispatcher._rules = replace(dispatcher._rules, approved=Approved(bridge.root / "approved"))
    (bridge.root / "data/project").mkdir()
    (bridge.root / "data/project/script.py").write_bytes(SCRIPT)
    return bridge


def test_what_stands_in_the_file_runs(site: Bridge) -> None:
    (site.root / "approved").write_text(f"# of a reviewer\n\n{DIGEST}  version 3\n")
    one = site.submit(**SANE)
    site.verbs.dispatcher.dispatch()
    assert site.get(one).job_id is not None


def test_what_does_not_stand_there_is_refused_with_its_digest(site: Bridge) -> None:
    (site.root / "approved").write_text(f"{'0' * 64}\n# {DIGEST}\n")
    one = site.submit(**SANE)
    site.verbs.dispatcher.dispatch()
    found = site.get(one)
    assert (found.state, found.job_id) == (ProcessState.EXECUTOR_ERROR, None)
    assert f"not approved: its SHA-256 is {DIGEST}" in (found.reason or "")
    assert not site.context(one).exists()


def test_what_was_approved_meanwhile_runs(site: Bridge) -> None:
    (site.root / "approved").write_text("")
    site.submit(**SANE)
    site.verbs.dispatcher.dispatch()
    (site.root / "approved").write_text(DIGEST)
    later = site.submit(**SANE)
    site.verbs.dispatcher.dispatch()
    assert site.get(later).job_id is not None


@pytest.mark.parametrize("content", [None, "approved: all\n", f"{DIGEST[:-1]}\n"])
def test_a_list_that_cannot_be_meant_lets_nothing_pass_and_is_waited_for(
    site: Bridge, content: str | None
) -> None:
    if content is not None:
        (site.root / "approved").write_text(content)
    with pytest.raises(StagingFailed):
        Approved(site.root / "approved").require(DIGEST)
    one = site.submit(**SANE)
    site.verbs.dispatcher.dispatch()
    found = site.get(one)
    assert (found.state, found.job_id) == (ProcessState.QUEUED, None)
    assert "approved" in (found.reason or "")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"contract": "plain", "command": ["python3", "-c", "1"]}, "contract"),
        ({"environment": {"PYTHONSTARTUP": "/input/x.py"}}, "environment"),
        ({"requirements": "data:requirements.txt"}, "requirements"),
    ],
)
def test_nothing_beside_the_code_steers_it(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidProcess) as refused:
        check(spec(**SANE | change), RULES, images={"python": IMAGE}, capability=None)
    assert field in {name for name, _ in refused.value.fields}


def test_a_project_of_sane_is_accepted() -> None:
    check(spec(**SANE), RULES, images={"python": IMAGE}, capability=None)
