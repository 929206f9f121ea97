"""The database: cancels, pages, moments, logs, images, helpers, keys, tokens, the site."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import StatementError

from slurmbridge.container.attestation import Found, Subject, attest, signed_bytes
from slurmbridge.errors import (
    AmbiguousImage,
    HelpersMissing,
    IllegalTransition,
    ImageRefused,
    SlurmBridgeError,
    UnknownImage,
    UnknownProcess,
)
from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState
from slurmbridge.model import Image
from slurmbridge.store import (
    Database,
    HelperStore,
    ImageStore,
    KeyStore,
    LogStore,
    ProcessStore,
    Roster,
    RunnerStatus,
    SiteStore,
    TokenStore,
)
from slurmbridge.store.tables import UtcTime
from tests.support.builders import KEY
from tests.support.databases import fresh_database
from tests.support.rows import ONE, THREE, TWO, add, change, claim, listed, move
from tests.support.specs import CAPABILITY, HELPERS, IMAGE, START, process_id

# --- cancel ---

LATER = timedelta(minutes=5)


def test_what_nothing_was_done_for_is_canceled_at_once(store: ProcessStore) -> None:
    add(store, ONE)
    process = store.request_cancel(ONE, by="alice", now=START)
    assert (process.state, process.ended_at) == (ProcessState.CANCELED, START)
    assert process.cancel_requested
    assert claim(store) == []
    assert store.events(ONE)[-1].state is ProcessState.CANCELED


def test_what_a_runner_holds_is_canceled_by_the_runner(store: ProcessStore) -> None:
    add(store, ONE)
    claim(store, "r1")
    process = store.request_cancel(ONE, by="alice", now=START)
    assert (process.state, process.cancel_requested) == (ProcessState.QUEUED, True)
    assert store.events(ONE)[-1].detail == "cancel requested by alice"
    assert not move(store, change(ONE), runner="r1")


@pytest.mark.parametrize("phase", [Phase.SUBMITTING, Phase.SUBMITTED, Phase.COLLECTING])
def test_what_slurm_may_know_is_not_canceled_by_a_row_alone(
    store: ProcessStore, phase: Phase
) -> None:
    add(store, ONE)
    move(store, change(ONE, phase=phase))
    process = store.request_cancel(ONE, by="alice", now=START)
    assert (process.state, process.cancel_requested) == (ProcessState.RUNNING, True)


def test_a_second_cancel_is_no_error(store: ProcessStore) -> None:
    add(store, ONE)
    store.request_cancel(ONE, by="alice", now=START)
    assert store.request_cancel(ONE, by="alice", now=START).state is ProcessState.CANCELED
    assert len(store.events(ONE)) == 2


@pytest.mark.parametrize("final", sorted(FINAL_STATES - {ProcessState.CANCELED}))
def test_what_has_ended_otherwise_cannot_be_canceled(
    store: ProcessStore, final: ProcessState
) -> None:
    add(store, ONE)
    move(store, change(ONE, after=final, phase=Phase.DONE))
    with pytest.raises(IllegalTransition, match=f"already ended as {final}"):
        store.request_cancel(ONE, by="alice", now=START)
    assert not store.get(ONE).cancel_requested


# --- pages ---


def test_pages_show_the_newest_first_and_follow_each_other(store: ProcessStore) -> None:
    ids = [process_id(number) for number in range(5)]
    add(store, *ids)
    assert listed(store, limit=2) == [ids[4], ids[3]]
    assert listed(store, limit=2, before=ids[3]) == [ids[2], ids[1]]
    assert listed(store, limit=2, before=ids[0]) == []


def test_pages_can_be_of_some_states(store: ProcessStore) -> None:
    add(store, ONE, TWO, THREE)
    move(store, change(TWO), change(THREE, after=ProcessState.UNKNOWN))
    assert listed(store, states=[ProcessState.RUNNING]) == [TWO]
    assert listed(store, states=[ProcessState.RUNNING, ProcessState.UNKNOWN]) == [THREE, TWO]


@pytest.mark.parametrize("key", ["project", "org.example/project", "0", "a-b", "A_b"])
def test_pages_can_be_of_one_label(store: ProcessStore, key: str) -> None:
    values = ["x", "", "it's", '"', "ü", "100%", "1", "true", "a\nb"]
    for number, value in enumerate(values):
        add(store, process_id(2 * number), labels={key: value})
        add(store, process_id(2 * number + 1), labels={f"{key}x": value})
    for number, value in enumerate(values):
        assert listed(store, label=(key, value)) == [process_id(2 * number)]


# --- moments ---


def test_a_moment_in_another_zone_is_the_same_moment_in_utc(store: ProcessStore) -> None:
    summer = datetime(2026, 7, 1, 14, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    add(store, ONE, now=summer)
    found = store.get(ONE).created_at
    assert found == summer
    assert found.tzinfo is UTC
    assert found.isoformat() == "2026-07-01T12:30:00.123456+00:00"


def test_a_moment_that_a_database_tells_in_its_own_zone_is_read_in_utc() -> None:
    # As PostgreSQL does, in the zone of the session.
    told = datetime(2026, 7, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    read = UtcTime().process_result_value(told, sqlite.dialect())
    assert read is not None
    assert (read.isoformat(), read.tzinfo) == ("2026-07-01T12:30:00+00:00", UTC)


def test_a_moment_without_a_zone_is_refused(store: ProcessStore) -> None:
    with pytest.raises(StatementError, match="a moment without a zone"):
        add(store, ONE, now=datetime(2026, 7, 1))
    with pytest.raises(UnknownProcess):
        store.get(ONE)


# --- logs ---


def logs(store: ProcessStore) -> LogStore:
    return LogStore(store._database)


def keep(store: ProcessStore, *chunks: tuple[int, bytes], stream: str = "stdout") -> None:
    logs(store).add([(ONE, stream, offset, data) for offset, data in chunks])


def test_a_log_is_read_across_its_chunks_from_any_offset_on(store: ProcessStore) -> None:
    add(store, ONE)
    keep(store, (0, b"0123"), (4, b"45"), (6, b"6789"))
    keep(store, (0, b"error"), stream="stderr")
    whole = b"0123456789"
    for offset in range(12):
        for limit in (1, 3, 100):
            found = logs(store).read(ONE, "stdout", offset=offset, limit=limit)
            assert found == whole[offset : offset + limit]
    assert logs(store).read(ONE, "job", offset=0, limit=10) == b""


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.binary(min_size=1, max_size=5), max_size=6), st.integers(0, 30), st.integers(1, 30)
)
def test_any_log_is_what_was_printed(pieces: Sequence[bytes], offset: int, limit: int) -> None:
    database = fresh_database()
    store = ProcessStore(database)
    add(store, ONE)
    position = 0
    for piece in pieces:
        keep(store, (position, piece))
        position += len(piece)
    whole = b"".join(pieces)
    assert (
        logs(store).read(ONE, "stdout", offset=offset, limit=limit)
        == whole[offset : offset + limit]
    )
    assert logs(store).sizes([ONE]).get((ONE, "stdout"), 0) == len(whole)
    database.close()


def test_the_size_of_a_log_is_told_for_each_stream(store: ProcessStore) -> None:
    add(store, ONE, TWO)
    keep(store, (0, b"abc"), (3, b"d"))
    keep(store, (0, b"\0\xff"), stream="stderr")
    assert logs(store).sizes([ONE, TWO]) == {(ONE, "stdout"): 4, (ONE, "stderr"): 2}


def test_two_runners_that_keep_the_same_log_do_not_end_by_it(store: ProcessStore) -> None:
    add(store, ONE)
    keep(store, (0, b"abc"))
    with contextlib.suppress(SlurmBridgeError):
        keep(store, (0, b"abcd"))
    keep(store, (4, b"e"))
    assert logs(store).read(ONE, "stdout", offset=0, limit=10)[:3] == b"abc"


# --- images, tokens, the site ---


def image(sha256: str, built_at: datetime, name: str = "python", definition: str = "d") -> Image:
    return IMAGE.model_copy(
        update={
            "name": name,
            "sha256": sha256,
            "built_at": built_at,
            "definition_sha256": definition,
        }
    )


def test_the_latest_image_of_a_name_is_the_one_that_runs(database: Database) -> None:
    images = ImageStore(database)
    old, new = image("a", START), image("b", START + LATER)
    for entry in (new, old, image("c", START + 2 * LATER, name="r")):
        images.record(entry)
    assert images.get("python") == new
    images.record(image("a", START + 3 * LATER))
    assert images.get("python").sha256 == "a"
    assert len(images.all()) == 3


def test_an_image_that_is_not_recorded_is_unknown_and_the_others_are_named(
    database: Database,
) -> None:
    images = ImageStore(database)
    with pytest.raises(UnknownImage, match="recorded: none"):
        images.get("julia")
    images.record(IMAGE)
    with pytest.raises(UnknownImage, match="recorded: python"):
        images.get("julia")


def test_an_image_is_found_by_its_definition(database: Database) -> None:
    images = ImageStore(database)
    images.record(image("a", START, definition="x"))
    found = images.built_from("python", "x")
    assert found is not None
    assert found.sha256 == "a"
    assert images.built_from("python", "y") is None
    assert images.built_from("r", "x") is None


def test_an_image_is_found_by_its_name_or_the_beginning_of_its_digest(database: Database) -> None:
    images = ImageStore(database)
    one, two = image("abcdefabcdef" + "0" * 52, START), image("abcdefabcdef" + "1" * 52, START)
    cafe = image("c" * 64, START + LATER, name="cafecafecafe")
    for entry in (one, cafe, image("d" * 64, START + LATER)):
        images.record(entry)
    assert images.find("python").sha256 == "d" * 64
    assert images.find("ABCDEFABCDEF") == images.find(one.sha256) == one
    assert images.find("cafecafecafe") == cafe
    images.record(two)
    with pytest.raises(AmbiguousImage, match=f"any of {one.sha256}, {two.sha256}"):
        images.find("abcdefabcdef")
    assert images.find(two.sha256[:13]) == two
    images.record(image("cafecafecafe" + "0" * 52, START))
    with pytest.raises(AmbiguousImage, match="cafecafecafe may be any of"):
        images.find("cafecafecafe")
    for missing in ("abcdefabcde", "abcdefabcdee", "julia", "%", ""):
        with pytest.raises(UnknownImage, match="recorded: cafecafecafe, python"):
            images.find(missing)


def test_a_revoked_image_stays_the_latest_and_stays_revoked(database: Database) -> None:
    images = ImageStore(database)
    old, new = image("a", START), image("b", START + LATER)
    images.record(old)
    images.record(new)
    assert images.revoke("b", by="carol", reason="one", now=START + 2 * LATER)
    revoked = images.get("python")
    assert revoked == new.model_copy(
        update={
            "revoked_at": START + 2 * LATER,
            "revoked_by": "carol",
            "revoked_reason": "one",
        }
    )
    assert not images.revoke("b", by="dave", reason="two", now=START + 3 * LATER)
    with pytest.raises(ImageRefused, match="was revoked: one"):
        images.record(new)
    images.note_signed("b", True)
    assert images.get("python") == revoked.model_copy(update={"signed": True})
    assert images.with_digest("a") == old
    assert images.with_digest("c") is None


def test_a_new_token_ends_the_earlier_one_of_its_name(database: Database) -> None:
    tokens = TokenStore(database)
    tokens.add("alice", "1", now=START)
    tokens.add("alice", "2", now=START)
    tokens.add("bob", "3", now=START)
    assert [tokens.name_of(sha256) for sha256 in "123"] == [None, "alice", "bob"]
    assert [name for name, *_ in tokens.all()] == ["alice", "bob"]
    assert tokens.remove("alice")
    assert not tokens.remove("alice")
    assert tokens.name_of("2") is None


def test_runners_are_known_while_they_are_heard_of(database: Database) -> None:
    roster = Roster(database)
    early = RunnerStatus("r1", "h", "fake", START, None)
    later = START + timedelta(minutes=5)
    late = RunnerStatus("r2", "h", "fake", later, "Slurm is silent")
    for status in (early, late):
        roster.enter(status)
    assert roster.runners(since=START) == [late, early]
    assert roster.runners(since=later) == [late]
    roster.leave("r2")
    assert roster.runners(since=START) == [early]


def test_of_a_cluster_the_last_report_counts(database: Database) -> None:
    site = SiteStore(database)
    assert site.capability() is None
    site.record_capability(CAPABILITY.model_copy(update={"observed_at": START}))
    later = CAPABILITY.model_copy(update={"observed_at": START + LATER, "accounts": ("other",)})
    site.record_capability(later)
    assert site.capability() == later


# --- helpers, keys, attestations ---


def test_without_helpers_it_is_told_how_to_get_them(database: Database) -> None:
    helpers = HelperStore(database, HELPERS.source_sha256)
    assert helpers.latest() is None
    with pytest.raises(HelpersMissing, match="slurmbridge node build"):
        helpers.get()


def test_the_latest_helpers_are_the_ones_that_are_used(database: Database) -> None:
    helpers = HelperStore(database, HELPERS.source_sha256)
    later = HELPERS.model_copy(update={"sbseal_sha256": "6" * 64})
    for one in (HELPERS, later):
        helpers.record(one)
        assert helpers.get() == one
    # Built again of the same source, on the same second.
    helpers.record(HELPERS)
    assert helpers.latest() == HELPERS


def test_helpers_of_another_version_are_not_used(database: Database) -> None:
    other = HELPERS.model_copy(update={"source_sha256": "9" * 64, "path": "/other"})
    mine, theirs = (HelperStore(database, one.source_sha256) for one in (HELPERS, other))
    mine.record(HELPERS)
    assert theirs.latest() is None
    theirs.record(other)
    assert (mine.get(), theirs.get()) == (HELPERS, other)


def test_a_key_is_known_since_it_was_first_registered(database: Database) -> None:
    keys = KeyStore(database)
    keys.register("a", now=START)
    keys.register("b", now=START + timedelta(seconds=1))
    keys.register("a", now=START + timedelta(seconds=2))
    known = [(key.public_key, key.registered_at) for key in keys.all()]
    assert known == [("b", START + timedelta(seconds=1)), ("a", START)]


def test_an_attestation_is_read_back_as_it_was_signed(store: ProcessStore) -> None:
    found = Found("node1", START, ("a", "b ä"))
    subject = Subject(ONE, 7, *("1" * 64, "2" * 64, "3" * 64, "4" * 64))
    made = attest(subject, found, ("a", "? c"), KEY)
    add(store, ONE, TWO)
    stored = made.model_dump(mode="json")
    move(store, change(ONE, attestation=stored, attested=made.sealed))
    assert store.attestation(ONE) == made
    assert signed_bytes(store.attestation(ONE) or made) == signed_bytes(made)
    assert store.get(ONE).attested is False
    assert store.attestation(TWO) is None
    assert store.get(TWO).attested is None


def test_of_a_process_that_is_not_there_nothing_is_attested(store: ProcessStore) -> None:
    with pytest.raises(UnknownProcess):
        store.attestation(ONE)
