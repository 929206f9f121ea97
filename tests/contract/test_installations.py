"""What is known of installations, on every kind of database: of those that ask, one is first."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from slurmbridge.model import InstalledRequirements, Locked
from slurmbridge.store import Database, Installation, InstallationState, InstallationStore
from tests.support.specs import START

KEY = "a" * 64
LATER = START + timedelta(minutes=1)
ASKED = Installation(KEY, 1, InstallationState.ASKED, START)
LOCK = (Locked(name="ä", version="1", hashes={"sha256": "b" * 64}, requested=True),)
FOUND = InstalledRequirements(key=KEY, sha256="c" * 64, size_bytes=1 << 40, lock=LOCK)


@pytest.fixture
def installations(database: Database) -> InstallationStore:
    return InstallationStore(database)


def test_of_many_that_ask_at_once_one_is_first(database: Database) -> None:
    stores = [InstallationStore(database) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda store: store.ask(None, ASKED), stores))
        again = replace(ASKED, attempt=2)
        second = list(pool.map(lambda store: store.ask(ASKED, again), stores))
    assert (first.count(True), second.count(True)) == (1, 1)
    assert stores[0].get(KEY) == again


def test_clusters_know_nothing_of_each_other(database: Database) -> None:
    other = InstallationStore(database, "other")
    assert InstallationStore(database).ask(None, ASKED)
    assert other.get(KEY) is None
    assert other.ask(None, ASKED)


def test_what_was_made_is_kept_with_its_lock(installations: InstallationStore) -> None:
    installations.ask(None, ASKED)
    assert installations.bind(ASKED, 1 << 40)
    assert installations.made(ASKED, FOUND, now=LATER)
    assert installations.get(KEY) == replace(
        ASKED, state=InstallationState.MADE, job_id=1 << 40, ended_at=LATER, installed=FOUND
    )


def test_what_has_ended_does_not_end_otherwise(installations: InstallationStore) -> None:
    installations.ask(None, ASKED)
    assert installations.failed(ASKED, "no-wheel", "it has none", now=LATER)
    assert not installations.made(ASKED, FOUND, now=LATER)
    assert not installations.bind(ASKED, 7)
    found = installations.get(KEY)
    assert found is not None
    assert (found.state, found.fault, found.sentence, found.job_id) == (
        InstallationState.FAILED, "no-wheel", "it has none", None,
    )  # fmt: skip


def test_an_attempt_that_is_over_moves_nothing_of_the_next(
    installations: InstallationStore,
) -> None:
    installations.ask(None, ASKED)
    installations.failed(ASKED, "ended", "it was ended", now=LATER)
    ended = installations.get(KEY)
    second = replace(ASKED, attempt=2, asked_at=LATER)
    assert installations.ask(ended, second)
    assert not installations.bind(ASKED, 7)
    assert not installations.failed(ASKED, "ended", "again", now=LATER)
    assert not installations.ask(ended, replace(second, attempt=3))
    assert installations.get(KEY) == second
