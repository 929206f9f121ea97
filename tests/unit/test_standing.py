"""Who lives, who is dead, and who may act: with no clock of two hosts ever compared."""

from datetime import timedelta

import pytest

from slurmbridge.bridge.standing import PATIENCE, Beats, Standing, beats_of
from slurmbridge.clock import Absences, Clock
from slurmbridge.errors import NotStanding
from slurmbridge.lifecycle import Phase
from slurmbridge.store import Database, ProcessStore, Roster, RunnerStatus
from tests.support.rows import ONE, TWO, add
from tests.support.specs import START

EVERY = 2.0


class Member:
    """A Runner with clocks of its own."""

    def __init__(self, database: Database, name: str) -> None:
        self.seconds = 0.0
        self.wall = START
        status = RunnerStatus(name, "host", "fake", START, None)
        clock = Clock(lambda: self.wall, lambda: self.seconds, lambda _: None)
        self.standing = Standing(Roster(database), status, Beats(EVERY), clock)
        self.standing.enter()

    def beats(self, times: int = 1) -> None:
        """Live on for some regular beats."""
        for _ in range(times):
            self.seconds += EVERY
            self.standing.beat()
            self.standing.look_round()


@pytest.fixture
def one(database: Database) -> Member:
    return Member(database, "one")


@pytest.fixture
def two(database: Database) -> Member:
    return Member(database, "two")


def claimed_by(database: Database, runner: str) -> list[str]:
    store = ProcessStore(database)
    found = store.claim(Phase.ACCEPTED, runner=runner, limit=9, now=START)
    return [entry.id for entry in found]


def test_who_beats_stands_and_strikes_nobody_who_lives(
    one: Member, two: Member, database: Database
) -> None:
    for _ in range(20):
        one.beats()
        two.beats()
    assert one.standing.stands
    assert two.standing.stands
    assert set(Roster(database).beats()) == {"one", "two"}


def test_who_stands_still_is_struck_off_and_its_work_is_free(
    one: Member, two: Member, database: Database
) -> None:
    add(ProcessStore(database), ONE)
    assert claimed_by(database, "two") == [ONE]
    one.beats(PATIENCE)
    assert claimed_by(database, "one") == []
    one.beats()
    assert claimed_by(database, "one") == [ONE]
    two.standing.beat()
    assert two.standing.struck
    with pytest.raises(NotStanding, match="two"):
        two.standing.check()


def test_who_may_have_been_struck_off_does_not_act_before_it_knows(
    one: Member, two: Member
) -> None:
    two.seconds += EVERY * PATIENCE / 2
    assert not two.standing.stands
    two.standing.beat()
    assert two.standing.stands
    one.beats(PATIENCE + 1)
    assert two.standing.stands, "by its own clock it was heard of just now"
    two.standing.beat()
    assert not two.standing.stands


def test_how_long_a_runner_may_act_ends_with_its_standing(one: Member, two: Member) -> None:
    valid = Beats(EVERY).valid_seconds
    two.standing.beat()
    assert two.standing.seconds_left() == valid
    two.seconds += valid - 1
    assert two.standing.seconds_left() == pytest.approx(1)
    two.seconds += 2
    assert two.standing.seconds_left() == 0
    two.standing.beat()
    one.beats(PATIENCE + 1)
    two.standing.beat()
    assert two.standing.struck
    assert two.standing.seconds_left() == 0


def test_a_runner_stops_acting_before_another_could_strike_it_off() -> None:
    beats = Beats(EVERY)
    assert beats.valid_seconds <= (PATIENCE - 1) * EVERY


@pytest.mark.parametrize("lease", [2.0, 12.0, 3600.0])
def test_the_work_of_a_dead_runner_is_free_within_the_lease(lease: float) -> None:
    beats = beats_of(lease)
    # Seen first up to one beat after it moved last, and then PATIENCE times more.
    assert (PATIENCE + 1) * beats.every_seconds == pytest.approx(lease)


def test_a_clock_that_jumps_costs_nobody_its_work(one: Member, two: Member) -> None:
    for _ in range(PATIENCE + 2):
        one.wall += timedelta(hours=1)
        one.seconds += 3600
        one.standing.beat()
        one.standing.look_round()
        two.beats()
    assert one.standing.stands
    assert two.standing.stands


def test_extra_beats_do_not_hasten_anybodys_end(
    one: Member, two: Member, database: Database
) -> None:
    for _ in range(10 * PATIENCE):
        one.standing.beat()
    one.beats(PATIENCE)
    assert "two" in Roster(database).beats()
    assert two.standing.stands


def test_who_left_or_never_entered_does_not_act(database: Database, one: Member) -> None:
    one.standing.leave()
    assert not one.standing.stands
    status = RunnerStatus("three", "host", "fake", START, None)
    assert not Standing(Roster(database), status, Beats(EVERY), Clock()).stands
    assert Roster(database).beats() == {}


def test_a_role_is_one_runners_until_it_is_dead(
    one: Member, two: Member, database: Database
) -> None:
    assert one.standing.has_role("observe x")
    assert not two.standing.has_role("observe x")
    assert two.standing.has_role("observe y")
    assert one.standing.has_role("observe x")
    two.beats(PATIENCE + 1)
    assert two.standing.has_role("observe x")
    assert not one.standing.has_role("observe x")


def test_what_is_told_comes_with_the_next_beat(one: Member, database: Database) -> None:
    one.standing.tell("Slurm is silent")
    one.beats()
    [status] = Roster(database).runners(since=START)
    assert (status.scheduler_error, status.beat) == ("Slurm is silent", 1)


def test_a_strike_that_comes_late_hits_nobody(one: Member, database: Database) -> None:
    one.beats()
    assert not Roster(database).strike("one", 0)
    assert Roster(database).strike("one", 1)


def test_calls_are_added_up(database: Database) -> None:
    roster = Roster(database)
    roster.count_calls("a", {"jobs": (2, 1), "submit": (3, 0)})
    roster.count_calls("a", {"jobs": (1, 0)})
    roster.count_calls("b", {"jobs": (5, 5)})
    assert roster.calls() == {"a": {"jobs": (3, 1), "submit": (3, 0)}, "b": {"jobs": (5, 5)}}


def test_an_absence_is_counted_look_by_look_whatever_the_clock_does() -> None:
    seconds = 0.0
    absences = Absences(lambda: seconds, most=timedelta(seconds=10))
    assert absences.look([ONE]) == {ONE: timedelta()}
    seconds += 4
    assert absences.look([ONE, TWO]) == {ONE: timedelta(seconds=4), TWO: timedelta()}
    seconds += 3600
    assert absences.look([ONE]) == {ONE: timedelta(seconds=14)}
    seconds -= 7200
    assert absences.look([ONE]) == {ONE: timedelta(seconds=14)}
    assert absences.look([], present=[ONE]) == {}
    assert absences.look([ONE]) == {ONE: timedelta()}


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    seconds = 0.0
    absences = Absences(lambda: seconds, most=timedelta(seconds=10))
    absences.look([ONE])
    seconds += 2 * 86_400
    absences.look([TWO])
    assert absences.look([ONE]) == {ONE: timedelta()}
