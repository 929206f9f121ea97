"""Nothing counts as a program's end unless its container was attested before it started."""

from pathlib import Path

import pytest
from sqlalchemy import text

from slurmbridge.bridge.collect import Verdict, judge_seal
from slurmbridge.container.attestation import Found, Subject, attest, verify
from slurmbridge.errors import AttestationInvalid
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.model import Attestation
from slurmbridge.store import HelperStore
from tests.support.builders import KEY, RETRY, Bridge
from tests.support.specs import HELPERS, IMAGE, START

UNATTESTED = "the job ended, but its container was not attested"
WAITS = "the sealing helpers are not built: run `slurmbridge node build`"


def started(bridge: Bridge) -> str:
    one = bridge.submitted()
    bridge.start(one)
    bridge.look()
    return one


def ended(bridge: Bridge, one: str, code: int = 0) -> None:
    """Its script and job end; how its container was found is left to the caller."""
    bridge.leave(one, {"exit_code": f"{code}\n"})
    state = SlurmState.FAILED if code else SlurmState.COMPLETED
    bridge.slurm.end(bridge.job(one).report.job_id, state, code)
    bridge.look()


def attestation(bridge: Bridge, one: str) -> Attestation | None:
    return bridge.processes.attestation(one)


def found_also(bridge: Bridge, one: str, *lines: str) -> None:
    facts = bridge.context(one) / "facts"
    facts.write_text(facts.read_text() + "".join(f"{line}\n" for line in lines))


# --- the verdict ---

GOOD = attest(
    Subject("1", 1, *("1" * 64, "2" * 64, "3" * 64, "4" * 64)),
    Found("n", START, ("a",)),
    ("a",),
    KEY,
)
BAD = GOOD.model_copy(update={"sealed": False, "unexpected": ("x",), "missing": ("a",)})
COMPLETE = Verdict(ProcessState.COMPLETE, 0, None, by_program=True)
FAILED = Verdict(ProcessState.EXECUTOR_ERROR, 3, "exit code 3", by_program=True)
OTHERS = [
    Verdict(ProcessState.CANCELED, 143, "it was canceled"),
    Verdict(ProcessState.EXECUTOR_ERROR, None, "its time limit was reached"),
    Verdict(ProcessState.SYSTEM_ERROR, 78, "the node refused: no image"),
]


@pytest.mark.parametrize("verdict", [COMPLETE, FAILED, *OTHERS], ids=lambda one: one.state)
def test_what_was_attested_ends_as_it_ended(verdict: Verdict) -> None:
    assert judge_seal(verdict, GOOD) == verdict


@pytest.mark.parametrize("verdict", [COMPLETE, FAILED], ids=lambda one: one.state)
def test_the_end_of_a_program_that_nobody_attested_is_none(verdict: Verdict) -> None:
    judged = judge_seal(verdict, None)
    assert judged == Verdict(ProcessState.SYSTEM_ERROR, verdict.exit_code, UNATTESTED)


@pytest.mark.parametrize("verdict", OTHERS, ids=lambda one: one.state)
def test_what_ended_otherwise_needs_no_attestation(verdict: Verdict) -> None:
    assert judge_seal(verdict, None) == verdict


@pytest.mark.parametrize("verdict", [COMPLETE, FAILED, *OTHERS], ids=lambda one: one.state)
def test_a_container_that_was_not_sealed_is_the_sites_to_put_right(verdict: Verdict) -> None:
    judged = judge_seal(verdict, BAD)
    assert (judged.state, judged.exit_code) == (ProcessState.SYSTEM_ERROR, verdict.exit_code)
    assert judged.reason == "the container was not sealed: found x; missed a"


# --- from the job's end to what is stored ---


def test_a_process_that_was_attested_is_complete_and_its_attestation_verifies(
    bridge: Bridge,
) -> None:
    one = started(bridge)
    assert bridge.get(one).attested is None
    bridge.attest(one)
    ended(bridge, one)
    process, stored = bridge.get(one), attestation(bridge, one)
    assert (process.state, process.attested) == (ProcessState.COMPLETE, True)
    assert stored is not None
    verify(stored, process, public_key=KEY.public)
    assert (stored.node, stored.job_id) == ("node1", process.job_id)
    assert stored.sbseal_sha256 == HELPERS.sbseal_sha256
    assert stored.sbprobe_sha256 == HELPERS.sbprobe_sha256
    assert stored.image_sha256 == IMAGE.sha256
    assert not bridge.context(one).exists()


def test_a_program_that_failed_was_attested_all_the_same(bridge: Bridge) -> None:
    one = started(bridge)
    bridge.attest(one)
    ended(bridge, one, code=3)
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.EXECUTOR_ERROR, True)
    assert process.exit_code == 3


def test_an_attestation_of_one_process_is_not_one_of_another(bridge: Bridge) -> None:
    one, other = started(bridge), started(bridge)
    for each in (one, other):
        bridge.attest(each)
        ended(bridge, each)
    stored = attestation(bridge, one)
    assert stored is not None
    with pytest.raises(AttestationInvalid, match="it is about process_id"):
        verify(stored, bridge.get(other), public_key=KEY.public)


def test_exit_code_0_without_an_attestation_is_not_complete(bridge: Bridge) -> None:
    one = started(bridge)
    ended(bridge, one)
    process = bridge.get(one)
    assert (process.state, process.reason) == (ProcessState.SYSTEM_ERROR, UNATTESTED)
    assert (process.exit_code, process.attested) == (0, None)
    assert attestation(bridge, one) is None


@pytest.mark.parametrize("name", ["attested", "facts"])
@pytest.mark.parametrize("content", [None, "", "garbage", "node1 99999999999999999999\n"])
def test_half_of_an_attestation_is_none(name: str, content: str | None, bridge: Bridge) -> None:
    one = started(bridge)
    bridge.attest(one)
    (bridge.context(one) / name).unlink()
    bridge.leave(one, {} if content is None else {name: content})
    ended(bridge, one)
    assert bridge.get(one).state is ProcessState.SYSTEM_ERROR
    assert bridge.get(one).attested is not True


def test_a_container_with_more_than_was_expected_is_not_sealed_whatever_the_node_said(
    bridge: Bridge,
) -> None:
    one = started(bridge)
    bridge.attest(one)
    found_also(bridge, one, "mount /home rw")
    ended(bridge, one)
    process, stored = bridge.get(one), attestation(bridge, one)
    assert (process.state, process.attested) == (ProcessState.SYSTEM_ERROR, False)
    assert process.reason == "the container was not sealed: found mount /home rw"
    assert process.exit_code == 0
    assert stored is not None
    assert stored.unexpected == ("mount /home rw",)
    with pytest.raises(AttestationInvalid, match="the container was not sealed"):
        verify(stored, process, public_key=KEY.public)


def test_what_is_expected_is_what_was_stored_and_not_what_lies_in_the_context(
    bridge: Bridge,
) -> None:
    one = started(bridge)
    expected = bridge.context(one) / "facts.expected"
    expected.write_text(f"{expected.read_text()}mount /home rw\n")
    bridge.attest(one)
    ended(bridge, one)
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.SYSTEM_ERROR, False)
    assert process.reason == "the container was not sealed: found mount /home rw"


def test_what_the_node_refused_is_told_with_what_differed(bridge: Bridge) -> None:
    one = started(bridge)
    bridge.attest(one)
    found_also(bridge, one, "seccomp 0")
    bridge.leave(one, {"refused": "the container is not sealed: found seccomp 0; missed \n"})
    ended(bridge, one, code=78)
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.SYSTEM_ERROR, False)
    assert process.reason == "the container was not sealed: found seccomp 0"


def test_what_the_node_refused_before_it_looked_is_told_as_the_node_said(bridge: Bridge) -> None:
    one = started(bridge)
    bridge.leave(one, {"refused": "the image has been revoked\n"})
    ended(bridge, one, code=78)
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.SYSTEM_ERROR, None)
    assert process.reason == "the node refused: the image has been revoked"


def test_a_job_that_was_canceled_before_its_start_has_no_attestation(bridge: Bridge) -> None:
    one = bridge.submitted()
    bridge.desk.cancel(one, by="alice")
    bridge.look()
    bridge.look()
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.CANCELED, None)
    assert attestation(bridge, one) is None


def test_a_process_that_was_canceled_while_it_ran_keeps_its_attestation(bridge: Bridge) -> None:
    one = started(bridge)
    bridge.attest(one)
    bridge.leave(one, {"exit_code": "143\n"})
    bridge.slurm.end(bridge.job(one).report.job_id, SlurmState.CANCELLED, None)
    bridge.look()
    process, stored = bridge.get(one), attestation(bridge, one)
    assert (process.state, process.attested) == (ProcessState.CANCELED, True)
    assert stored is not None
    verify(stored, process, public_key=KEY.public)


def test_a_process_of_before_attestations_ends_as_it_did(bridge: Bridge) -> None:
    one = started(bridge)
    with bridge.database.write() as connection:
        connection.execute(text("UPDATE process SET sealing = NULL"))
    ended(bridge, one)
    process = bridge.get(one)
    assert (process.state, process.attested) == (ProcessState.COMPLETE, None)


# --- helpers ---


def without_helpers(bridge: Bridge) -> None:
    with bridge.database.write() as connection:
        connection.execute(text("DELETE FROM helper"))


def test_without_helpers_a_process_waits_and_says_for_what(bridge: Bridge) -> None:
    without_helpers(bridge)
    one = bridge.submit()
    bridge.verbs.dispatcher.dispatch()
    process = bridge.get(one)
    assert (process.state, process.reason) == (ProcessState.QUEUED, WAITS)
    assert bridge.jobs_of(one) == []


def test_a_process_that_waited_for_helpers_starts_when_they_are_there(bridge: Bridge) -> None:
    without_helpers(bridge)
    (bridge.root / "data/a").write_text("a")
    one = bridge.submit(inputs=[{"source": "data:a"}])
    bridge.verbs.dispatcher.dispatch()
    assert bridge.jobs_of(one) == []
    HelperStore(bridge.database, HELPERS.source_sha256).record(HELPERS)
    bridge.advance(RETRY)
    bridge.verbs.dispatcher.dispatch()
    assert bridge.get(one).job_id == 1
    assert bridge.get(one).reason is None
    assert (bridge.context(one) / "input/a").read_text() == "a"


def test_what_is_waited_for_is_told_once_however_often_it_is_tried(bridge: Bridge) -> None:
    without_helpers(bridge)
    (bridge.root / "data/a").write_text("a")
    one = bridge.submit(inputs=[{"source": "data:a"}])
    for _ in range(3):
        bridge.verbs.dispatcher.dispatch()
        bridge.advance(RETRY)
    assert [event.detail for event in bridge.events(one)] == ["accepted from tester", WAITS]


def test_helpers_that_are_built_later_are_not_those_of_a_job_that_was_submitted(
    bridge: Bridge,
) -> None:
    one = started(bridge)
    later = HELPERS.model_copy(update={"sbseal_sha256": "6" * 64, "path": "/elsewhere"})
    HelperStore(bridge.database, HELPERS.source_sha256).record(later)
    bridge.attest(one)
    ended(bridge, one)
    stored = attestation(bridge, one)
    assert stored is not None
    assert stored.sbseal_sha256 == HELPERS.sbseal_sha256
    other = started(bridge)
    assert "/elsewhere/sbseal" in (bridge.processes.script(other) or "")


# --- what a program leaves ---


def test_outputs_that_are_too_much_do_not_hide_that_nothing_was_attested(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    one = started(bridge)
    bridge.leave(one, {"output/big": b"x" * ((1 << 20) + 1)})
    ended(bridge, one)
    process = bridge.get(one)
    assert (process.state, process.reason) == (ProcessState.SYSTEM_ERROR, UNATTESTED)
