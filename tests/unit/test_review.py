"""Outputs that wait until somebody lets them out."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmbridge.api import create_app
from slurmbridge.bridge.checks import Reviewing
from slurmbridge.bridge.review import _LET_OUT, Reviewer
from slurmbridge.client import Client
from slurmbridge.errors import Forbidden, NotWaiting
from slurmbridge.lifecycle import Phase, ProcessState, ReviewState, SlurmState
from slurmbridge.model import Process, Review
from tests.support.bench import Bench, PlayedSite
from tests.support.builders import Bridge, Crash, end
from tests.support.front import Front

WAITING = Reviewing("waiting", frozenset({"research"}))


@pytest.fixture
def site(tmp_path: Path) -> Bridge:
    bridge = Bridge(tmp_path, reviewing=WAITING)
    bridge.desk.add_token("rita", reviews=True)
    bridge.desk.add_token("bob")
    return bridge


def ended(bridge: Bridge, state: SlurmState = SlurmState.COMPLETED, code: int = 0) -> str:
    """A Process of the account that is reviewed, with a result."""
    one = bridge.submitted(account="research")
    bridge.leave(one, {"output/result.csv": "a,b\n", "stdout.txt": "printed\n"})
    end(bridge, one, state, code=code)
    bridge.look()
    return one


def decide(bridge: Bridge, one: str, *, release: bool, by: str = "rita") -> Process:
    return bridge.desk.decide(one, release=release, by=by, reason="looked at")


def review(bridge: Bridge, one: str) -> Review:
    found = bridge.desk.inspect(one).review
    assert found is not None
    return found


def waiting(bridge: Bridge, one: str) -> Path:
    return bridge.root / "waiting" / one


def released(bridge: Bridge, one: str) -> Path:
    return bridge.root / "results/processes" / one


def told(bridge: Bridge, one: str) -> list[str]:
    return [event.detail for event in bridge.desk.events(one)]


@pytest.mark.parametrize(("state", "code"), [(SlurmState.COMPLETED, 0), (SlurmState.FAILED, 3)])
def test_outputs_wait_and_are_not_where_they_were_meant_to_go(
    site: Bridge, state: SlurmState, code: int
) -> None:
    one = ended(site, state, code)
    found = site.desk.inspect(one)
    assert found.state.final
    assert found.outputs_location is None
    assert review(site, one) == Review(state=ReviewState.WAITING, location=f"waiting:{one}")
    assert (waiting(site, one) / "output/result.csv").read_text() == "a,b\n"
    assert not released(site, one).exists()
    assert not site.context(one).exists()


def test_what_is_released_is_what_was_looked_at(site: Bridge) -> None:
    one = ended(site)
    manifest = (waiting(site, one) / "manifest.json").read_bytes()
    assert decide(site, one, release=True).review == Review(
        state=ReviewState.RELEASING, by="rita", at=site.clock(), reason="looked at",
        location=f"waiting:{one}",
    )  # fmt: skip
    assert site.verbs.reviewer.review() == 1
    found = site.desk.inspect(one)
    assert (found.state, review(site, one).state) == (ProcessState.COMPLETE, ReviewState.RELEASED)
    assert found.outputs_location == f"results:processes/{one}"
    place = released(site, one)
    assert (place / "manifest.json").read_bytes() == manifest
    assert hashlib.sha256(manifest).hexdigest() == found.manifest_sha256
    assert {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} == {
        "manifest.json", *(file["path"] for file in json.loads(manifest)["files"]),
    }  # fmt: skip
    assert not waiting(site, one).exists()
    carried = f"{len(found.outputs)} files released to results:processes/{one}"
    assert told(site, one)[-2:] == ["released by rita: looked at", carried]
    assert site.verbs.reviewer.review() == 0


def test_what_is_rejected_is_destroyed_and_goes_nowhere(site: Bridge) -> None:
    one = ended(site)
    decide(site, one, release=False)
    site.verbs.reviewer.review()
    assert review(site, one).state is ReviewState.REJECTED
    assert site.desk.inspect(one).outputs_location is None
    assert not waiting(site, one).exists()
    assert not released(site, one).exists()
    assert told(site, one)[-2:] == [
        "rejected by rita: looked at", "rejected: its outputs are destroyed",
    ]  # fmt: skip


def test_others_need_no_review(site: Bridge) -> None:
    one = site.submitted()
    end(site, one)
    site.look()
    assert site.desk.inspect(one).review is None
    assert released(site, one).exists()
    with pytest.raises(NotWaiting, match="no review"):
        decide(site, one, release=True)


def test_only_a_reviewer_decides_and_not_on_his_own(site: Bridge) -> None:
    one = ended(site)
    with pytest.raises(Forbidden, match="not one of a reviewer"):
        decide(site, one, release=True, by="bob")
    owner = site.desk.inspect(one).submitted_by
    site.desk.add_token(owner, reviews=True)
    with pytest.raises(Forbidden, match="his own"):
        decide(site, one, release=True, by=owner)
    assert review(site, one).state is ReviewState.WAITING
    site.desk.add_token("rita")
    with pytest.raises(Forbidden):
        decide(site, one, release=True)


@pytest.mark.parametrize("first", [True, False])
def test_a_decision_stands(site: Bridge, first: bool) -> None:
    one = ended(site)
    decide(site, one, release=first)
    for _ in range(2):
        with pytest.raises(NotWaiting, match="by rita at"):
            decide(site, one, release=not first)
        site.verbs.reviewer.review()
    assert review(site, one).state is (ReviewState.RELEASED if first else ReviewState.REJECTED)


def test_of_two_decisions_at_the_same_time_one_counts(site: Bridge) -> None:
    one = ended(site)
    site.desk.add_token("rolf", reviews=True)
    gate, refused = threading.Barrier(2), []

    def deciding(by: str, release: bool) -> None:
        gate.wait()
        try:
            decide(site, one, release=release, by=by)
        except NotWaiting:
            refused.append(by)

    both = [
        threading.Thread(target=deciding, args=("rita", True)),
        threading.Thread(target=deciding, args=("rolf", False)),
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(refused) == 1
    assert {review(site, one).by, *refused} == {"rita", "rolf"}


def test_what_was_changed_since_it_was_carried_is_not_released(site: Bridge) -> None:
    one = ended(site)
    (waiting(site, one) / "output/result.csv").write_text("x,y\n")
    decide(site, one, release=True)
    site.verbs.reviewer.review()
    assert review(site, one).state is ReviewState.RELEASING
    assert not released(site, one).exists()
    assert "not what was reviewed" in told(site, one)[-1]


@pytest.mark.parametrize("name", ["output/more.csv", "manifest.json"])
def test_nothing_that_was_added_or_exchanged_is_released(site: Bridge, name: str) -> None:
    one = ended(site)
    (waiting(site, one) / name).write_text("{}")
    decide(site, one, release=True)
    site.verbs.reviewer.review()
    assert not released(site, one).exists()
    assert review(site, one).state is ReviewState.RELEASING


def test_a_destination_that_is_away_is_waited_for(site: Bridge) -> None:
    one = ended(site)
    decide(site, one, release=True)
    (site.root / "results").rename(site.root / "away")
    (site.root / "results").write_text("no folder")
    site.verbs.reviewer.review()
    assert review(site, one).state is ReviewState.RELEASING
    assert "not released yet" in told(site, one)[-1]
    (site.root / "results").unlink()
    (site.root / "away").rename(site.root / "results")
    assert site.verbs.reviewer.review() == 0
    site.advance(site.verbs.reviewer._rules.retry)
    site.verbs.reviewer.review()
    assert review(site, one).state is ReviewState.RELEASED


def test_a_runner_that_dies_after_it_carried_is_followed_by_another(
    site: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ended(site)
    decide(site, one, release=True)

    def dies(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as crashing:
        crashing.setattr(Reviewer, "_apply", dies)
        with pytest.raises(Crash):
            site.verbs.reviewer.review()
    assert review(site, one).state is ReviewState.RELEASING
    site.strike()
    other = site.new_verbs("runner-2").reviewer
    other.review()
    assert review(site, one).state is ReviewState.RELEASED
    assert (released(site, one) / "output/result.csv").read_text() == "a,b\n"
    assert len(list((site.root / "results/processes").iterdir())) == 1


@pytest.mark.parametrize("release", [True, False])
def test_what_a_dying_runner_left_in_the_waiting_place_is_swept(
    site: Bridge, monkeypatch: pytest.MonkeyPatch, release: bool
) -> None:
    one, other = ended(site), ended(site)
    decide(site, one, release=release)
    with monkeypatch.context() as crashing:
        crashing.setattr(Reviewer, "_destroy", lambda *_: None)
        site.verbs.reviewer.review()
    assert waiting(site, one).exists()
    assert site.verbs.reviewer.sweep() == 1
    assert not waiting(site, one).exists()
    assert waiting(site, other).exists()


def test_two_runners_do_not_release_the_same(site: Bridge) -> None:
    one = ended(site)
    decide(site, one, release=True)
    # The first one takes it, and stands still.
    assert len(site.verbs.reviewer._claim(Phase.RELEASING)) == 1
    other = site.new_verbs("runner-2").reviewer
    assert other.review() == 0
    site.strike("runner-1")
    assert other.review() == 1
    assert review(site, one).state is ReviewState.RELEASED


# --- what can be seen meanwhile ---


@pytest.fixture
def front(site: Bridge) -> Iterator[Front]:
    with asyncio.Runner() as loop:
        token = site.desk.add_token("alice")
        yield Front(site.database, site.desk, create_app(site.desk), loop, token)


def refuses(client: Client, one: str) -> None:
    for look in (client.log, client.trace, client.trace_page):
        with pytest.raises(Forbidden, match="held back"):
            look(one)


def test_until_it_is_let_out_only_a_reviewer_sees_what_it_says_and_leaves(
    site: Bridge, front: Front
) -> None:
    one = site.submitted(account="research")
    site.leave(one, {"output/result.csv": "a,b\n", "stdout.txt": "printed\n"})
    reviewer = front.client(site.desk.add_token("rita", reviews=True))
    alice = front.client()
    site.start(one)
    site.look()
    refuses(alice, one)
    end(site, one)
    site.look()
    refuses(alice, one)
    seen, all_of_it = alice.get(one), reviewer.get(one)
    assert (seen.outputs, seen.outputs_location, seen.state) == ((), None, ProcessState.COMPLETE)
    assert seen.review == Review(state=ReviewState.WAITING)
    assert {file.path for file in all_of_it.outputs} >= {"output/result.csv", "stdout.txt"}
    assert all_of_it.review == Review(state=ReviewState.WAITING, location=f"waiting:{one}")
    assert reviewer.log(one).data == b"printed\n"
    reviewer.decide(one, release=True, reason="fine")
    site.verbs.reviewer.review()
    assert alice.log(one).data == b"printed\n"
    assert alice.get(one).outputs == all_of_it.outputs


def test_what_was_rejected_stays_held_back(site: Bridge, front: Front) -> None:
    one = ended(site)
    reviewer = front.client(site.desk.add_token("rita", reviews=True))
    assert [process.id for process in reviewer.page(review=ReviewState.WAITING).processes] == [one]
    with pytest.raises(Forbidden, match="not one of a reviewer"):
        front.client().decide(one, release=True)
    reviewer.decide(one, release=False)
    site.verbs.reviewer.review()
    with pytest.raises(NotWaiting):
        reviewer.decide(one, release=True)
    with pytest.raises(Forbidden):
        front.client().log(one)
    assert front.client().get(one).outputs == ()
    assert front.client().page(review=ReviewState.REJECTED).processes[0].outputs == ()


@pytest.fixture
def bench(site: Bridge, front: Front, tmp_path: Path) -> Bench:
    (tmp_path / "cli").mkdir()
    reviewer = Front(
        site.database, site.desk, front.app, front.loop, site.desk.add_token("rita", reviews=True)
    )
    return Bench(reviewer, PlayedSite(reviewer, folder=tmp_path / "cli"), tmp_path / "cli")


def test_a_reviewer_works_on_the_command_line(site: Bridge, bench: Bench) -> None:
    one, other = ended(site), ended(site)
    listed = bench.run("outputs", "list").stdout
    assert one in listed
    assert f"waiting:{other}" in listed
    shown = bench.run("outputs", "show", one).stdout
    assert "review: WAITING" in shown
    assert "output/result.csv" in shown
    assert bench.run("outputs", "release", one, "--reason", "no rows").stdout == "RELEASING\n"
    assert bench.run("outputs", "reject", other).stdout == "REJECTING\n"
    site.verbs.reviewer.review()
    assert "decided: by rita" in bench.run("outputs", "show", one).stdout
    assert one in bench.run("outputs", "list", "--state", "released").stdout
    again = bench.run("outputs", "release", one)
    assert again.exit_code != 0
    assert "are released, by rita" in again.output


def test_every_state_of_a_review_says_whether_it_lets_out() -> None:
    assert set(_LET_OUT) == set(ReviewState)
