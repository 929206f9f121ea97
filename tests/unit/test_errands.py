"""Files are moved beside the rounds of a Runner, which goes on with everything else."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from slurmbridge.bridge.errands import Canceled, Errands, Watch
from slurmbridge.bridge.standing import Actor
from slurmbridge.clock import Clock
from slurmbridge.context.folder import ContextFolder
from slurmbridge.errors import NotStanding
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.runner import Verbs
from tests.support.builders import Bridge, end
from tests.support.rows import enroll

CODE = {"code": {"source": "data:main.py"}}


class Held:
    """A piece of work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(20)


@pytest.fixture
def held() -> Iterator[Held]:
    work = Held()
    yield work
    work.go.set()


@pytest.fixture
def verbs(bridge: Bridge) -> Iterator[Verbs]:
    """Those of a Runner on whose clock time passes while it waits."""
    (bridge.root / "data" / "main.py").write_text("print('hello')\n")
    enroll(bridge.processes, "runner-1")
    found = bridge.verbs_of(Actor("runner-1", patient(bridge)))
    yield found
    found.dispatcher.close()
    found.collector.close()


def patient(bridge: Bridge) -> Clock:
    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        bridge.advance(timedelta(seconds=seconds))

    return Clock(bridge.clock, bridge.monotonic, sleep)


def slowly(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[..., object]) -> None:
    """Have something else done before a context does this."""
    real = getattr(ContextFolder, name)

    def method(self: ContextFolder, *args: Any) -> Any:
        before(*args)
        return real(self, *args)

    monkeypatch.setattr(ContextFolder, name, method)


def submitted(bridge: Bridge, verbs: Verbs, one: str) -> bool:
    verbs.dispatcher.dispatch()
    return bridge.get(one).job_id is not None


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_others_are_submitted_while_one_is_staged(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, "stage", lambda *_: held())
    slow, quick = bridge.submit(**CODE), bridge.submit()
    verbs.dispatcher.dispatch()
    assert bridge.get(quick).job_id is not None
    assert bridge.get(slow).state is ProcessState.INITIALIZING
    assert verbs.dispatcher.under_way == {slow}
    held.go.set()
    eventually(lambda: submitted(bridge, verbs, slow))
    assert verbs.dispatcher.under_way == frozenset()
    assert not bridge.processes.holds(slow, runner="runner-1")


def test_what_is_staged_stays_held_when_all_else_is_let_go(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, "stage", lambda *_: held())
    slow = bridge.submit(**CODE)
    verbs.dispatcher.dispatch()
    bridge.processes.let_go_all(runner="runner-1", but=verbs.dispatcher.under_way)
    assert bridge.processes.holds(slow, runner="runner-1")
    assert bridge.new_verbs("runner-2").dispatcher.dispatch() == 0


def test_however_much_is_staged_what_needs_no_staging_goes_on(
    bridge: Bridge, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, "stage", lambda *_: held())
    (bridge.root / "data" / "main.py").write_text("")
    enroll(bridge.processes, "runner-1")
    verbs = bridge.verbs_of(Actor("runner-1", patient(bridge)), batch=2)
    for _ in range(6):
        bridge.submit(**CODE)
    quick = bridge.submit()
    try:
        for _ in range(4):
            verbs.dispatcher.dispatch()
        assert bridge.get(quick).job_id is not None
    finally:
        held.go.set()
        verbs.dispatcher.close()


def test_a_cancel_ends_staging(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*args: Any) -> None:
        watch = args[1].watch
        held()
        bridge.advance(timedelta(seconds=2))
        watch.moved(1)

    slowly(monkeypatch, "stage", wait)
    one = bridge.submit(**CODE)
    verbs.dispatcher.dispatch()
    assert bridge.desk.cancel(one, by="somebody").state is ProcessState.INITIALIZING
    held.go.set()
    eventually(lambda: bool(verbs.dispatcher.dispatch()) or bridge.get(one).state.final)
    assert bridge.get(one).state is ProcessState.CANCELED
    assert bridge.get(one).job_id is None
    assert not (bridge.contexts / one).exists()


def test_a_runner_that_ends_leaves_what_it_stages_to_others(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, "stage", lambda *_: held())
    one = bridge.submit(**CODE)
    verbs.dispatcher.dispatch()
    threading.Timer(0.1, held.go.set).start()
    verbs.dispatcher.close()
    # Who has to end copies nothing more.
    assert not list((bridge.contexts / one / "code").iterdir())
    bridge.strike()
    assert submitted(bridge, bridge.new_verbs("runner-2"), one)


def test_a_runner_that_was_struck_off_does_not_begin_its_own_anew(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, "stage", lambda *_: held())
    bridge.submit(**CODE)
    verbs.dispatcher.dispatch()
    bridge.strike()
    assert verbs.dispatcher.dispatch() == 1
    assert len(verbs.dispatcher.under_way) == 1


def test_ends_are_seen_while_the_outputs_of_one_are_carried(
    bridge: Bridge, verbs: Verbs, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = bridge.submit(), bridge.submit()
    verbs.dispatcher.dispatch()
    real = ContextFolder.open_output

    def wait(self: ContextFolder) -> None:
        if self.path.name == one:
            held()
        real(self)

    monkeypatch.setattr(ContextFolder, "open_output", wait)
    for each in (one, other):
        end(bridge, each)
    verbs.observer.observe()
    verbs.collector.collect()
    assert bridge.get(other).state is ProcessState.COMPLETE
    assert not bridge.get(one).state.final
    assert verbs.collector.under_way == {one}
    assert bridge.new_verbs("runner-2").collector.collect() == 0
    held.go.set()
    eventually(lambda: bool(verbs.collector.collect()))
    assert bridge.get(one).state is ProcessState.COMPLETE
    assert sum("carried to" in event.detail for event in bridge.events(one)) == 1


def test_progress_is_told_and_gone_when_it_is_submitted(bridge: Bridge, verbs: Verbs) -> None:
    one = bridge.submit()
    enroll(bridge.processes, "runner-1")
    bridge.processes.claim(Phase.ACCEPTED, runner="runner-1", limit=1, now=bridge.clock())
    watch = Watch(bridge.processes, Actor("runner-1", patient(bridge)), one, "staging")
    watch.expect(3, 300)
    bridge.advance(timedelta(seconds=2))
    watch.moved(100, files=1)
    progress = bridge.get(one).progress
    assert progress is not None
    assert progress.model_dump() == {
        "doing": "staging", "files": 1, "size_bytes": 100, "of_files": 3, "of_bytes": 300,
    }  # fmt: skip
    bridge.processes.let_go([one], runner="runner-1")
    assert submitted(bridge, verbs, one)
    assert bridge.get(one).progress is None


def test_a_watch_ends_what_is_not_wanted_or_not_its_own(bridge: Bridge) -> None:
    one = bridge.submit()
    actor = bridge.actor("runner-1")
    bridge.processes.claim(Phase.ACCEPTED, runner="runner-1", limit=1, now=bridge.clock())
    watch = Watch(bridge.processes, actor, one, "staging", ends_with_cancel=True)
    bridge.desk.cancel(one, by="somebody")
    watch.moved(1)  # It asks once a second at the most.
    bridge.advance(timedelta(seconds=2))
    with pytest.raises(Canceled):
        watch.moved(1)
    bridge.strike()
    bridge.advance(timedelta(seconds=2))
    with pytest.raises(NotStanding):
        watch.moved(1)


def test_errands_that_were_closed_stand_for_nobody(bridge: Bridge) -> None:
    errands: Errands[int] = Errands(lambda: pytest.fail("nothing is begun"), bridge.actor("r"))
    errands.actor.guard()
    errands.close()
    with pytest.raises(NotStanding):
        errands.actor.guard()
