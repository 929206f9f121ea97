"""Attestations: of which Process, by which bridge, of a container that was as it had to be."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.container.attestation import (
    Found,
    Subject,
    attest,
    read_found,
    sentence,
    signed_bytes,
    verify,
)
from slurmbridge.container.facts import Differences
from slurmbridge.container.signing import SigningKey, is_signed
from slurmbridge.errors import AttestationInvalid
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Attestation, Process, job_name
from tests.support.builders import KEY, OTHER_KEY
from tests.support.specs import START, process_id, spec

EXPECTED = ("a 1", "b ä", "? c")
SUBJECT = Subject(process_id(1), 7, "1" * 64, "2" * 64, "3" * 64, "4" * 64)
GOOD = attest(SUBJECT, Found("node1", START, ("a 1", "b ä")), EXPECTED, KEY)
PROCESS = Process(
    id=process_id(1),
    state=ProcessState.COMPLETE,
    spec=spec(),
    cluster="default",
    submitted_by="tester",
    created_at=START,
    job_name=job_name(process_id(1)),
    job_id=7,
    image_sha256="1" * 64,
    script_sha256="2" * 64,
)
# For each field, something else that it could say.
LIES: Mapping[str, Any] = {
    "version": 2,
    "process_id": process_id(2),
    "job_id": 8,
    "node": "node2",
    "attested_at": START + timedelta(seconds=1),
    "image_sha256": "5" * 64,
    "script_sha256": "5" * 64,
    "sbseal_sha256": "5" * 64,
    "sbprobe_sha256": "5" * 64,
    "sealed": False,
    "unexpected": ("x",),
    "missing": ("x",),
    "facts": ("a 1", "b ä", "c"),
    "expected": ("a 1", "b ä"),
    "public_key": OTHER_KEY.public,
}
SIGNATURE_WORDS = "the signature is not one of this bridge's key over this text"


def altered(key: SigningKey | None = None, **changes: Any) -> Attestation:
    """The good one, changed; with a key, signed again with it."""
    changed = GOOD.model_copy(update=changes)
    if key is None:
        return changed
    return changed.model_copy(update={"signature": key.sign(signed_bytes(changed))})


# --- what the node left ---


def test_what_the_node_left_is_read() -> None:
    found = read_found("node1 1772600767", "a\nb c")
    assert found == Found("node1", datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC), ("a", "b c"))


def test_a_node_that_found_nothing_at_all_has_looked() -> None:
    found = read_found("node1 1772600767", "")
    assert found is not None
    assert found.facts == ()


@pytest.mark.parametrize(
    "attested",
    [
        None, "", "node1", "1772600767", "node1 x", "node1 -1", "node1 1.5", "node1 1772600767 x",
        "node1  1772600767", "node1 1772600767000", "node1 " + "9" * 5000, "node1 ٣", " 1", "\0 x",
    ],
)  # fmt: skip
def test_what_is_not_written_whole_is_nothing(attested: str | None) -> None:
    assert read_found(attested, "a") is None


def test_without_facts_there_is_nothing() -> None:
    assert read_found("node1 1772600767", None) is None


@given(st.none() | st.text(), st.none() | st.text())
def test_no_garbage_is_a_crash(attested: str | None, facts: str | None) -> None:
    found = read_found(attested, facts)
    assert found is None or (facts is not None and attested is not None and found.node in attested)


# --- attesting ---


def test_a_container_that_is_as_expected_is_attested() -> None:
    assert GOOD.sealed
    assert (GOOD.unexpected, GOOD.missing) == ((), ())
    assert (GOOD.process_id, GOOD.job_id, GOOD.node) == (process_id(1), 7, "node1")
    assert GOOD.public_key == KEY.public
    verify(GOOD, PROCESS, public_key=KEY.public)


def test_a_container_that_is_not_is_attested_to_be_none() -> None:
    other = attest(SUBJECT, Found("node1", START, ("a 1", "x")), EXPECTED, KEY)
    assert not other.sealed
    assert (other.unexpected, other.missing) == (("x",), ("b ä",))
    assert is_signed(signed_bytes(other), signature=other.signature, public_key=KEY.public)
    with pytest.raises(AttestationInvalid, match=r"^the container was not sealed: found x; missed"):
        verify(other, PROCESS, public_key=KEY.public)


@pytest.mark.parametrize(
    ("unexpected", "missing", "words"),
    [
        ((), (), "nothing differs"),
        (("a", "b"), (), "found a, b"),
        ((), ("a",), "missed a"),
        (("a",), ("b",), "found a; missed b"),
    ],
)
def test_what_differs_is_said_in_words(
    unexpected: tuple[str, ...], missing: tuple[str, ...], words: str
) -> None:
    assert sentence(Differences(unexpected, missing)) == words


def test_of_many_differences_the_first_are_told() -> None:
    many = tuple(f"variable {'x' * 300}{number}\0" for number in range(100))
    said = sentence(Differences(many, ()))
    assert said.startswith("found variable xxx")
    assert said.endswith(" and 80 more")
    assert len(said) < 5000
    assert sentence(Differences(("a\0",), ())) == "found a\\x00"


# --- verifying ---


def test_there_is_a_lie_for_every_field() -> None:
    assert set(LIES) == set(Attestation.model_fields) - {"signature"}
    assert all(getattr(GOOD, name) != lie for name, lie in LIES.items())


@pytest.mark.parametrize("name", LIES)
def test_any_field_that_was_changed_breaks_the_signature(name: str) -> None:
    with pytest.raises(AttestationInvalid, match=SIGNATURE_WORDS):
        verify(altered(**{name: LIES[name]}), PROCESS, public_key=KEY.public)


@pytest.mark.parametrize("name", LIES)
def test_who_signs_a_change_with_another_key_is_not_this_bridge(name: str) -> None:
    with pytest.raises(AttestationInvalid, match=SIGNATURE_WORDS):
        verify(altered(OTHER_KEY, **{name: LIES[name]}), PROCESS, public_key=KEY.public)


@pytest.mark.parametrize("signature", ["", "0" * 128, OTHER_KEY.sign(signed_bytes(GOOD)), "ä"])
def test_without_this_bridges_signature_nothing_is_attested(signature: str) -> None:
    with pytest.raises(AttestationInvalid, match=SIGNATURE_WORDS):
        verify(altered(signature=signature), PROCESS, public_key=KEY.public)


def test_the_key_that_an_attestation_names_is_not_believed() -> None:
    forged = altered(OTHER_KEY, public_key=OTHER_KEY.public)
    with pytest.raises(AttestationInvalid, match=SIGNATURE_WORDS):
        verify(forged, PROCESS, public_key=KEY.public)
    verify(forged, PROCESS, public_key=OTHER_KEY.public)


@pytest.mark.parametrize("name", ["process_id", "job_id", "image_sha256", "script_sha256"])
def test_what_is_attested_of_another_process_is_not_of_this(name: str) -> None:
    lie = LIES[name]
    stored = getattr(PROCESS, "id" if name == "process_id" else name)
    signed = altered(KEY, **{name: lie})
    with pytest.raises(AttestationInvalid) as caught:
        verify(signed, PROCESS, public_key=KEY.public)
    assert str(caught.value) == f"it is about {name} {lie}, the Process has {stored}"


def test_an_attestation_of_a_later_form_is_not_read_as_this_one() -> None:
    with pytest.raises(AttestationInvalid, match="its version is 2, not 1"):
        verify(altered(KEY, version=2), PROCESS, public_key=KEY.public)


def test_an_attestation_of_no_job_is_not_of_this_one() -> None:
    with pytest.raises(AttestationInvalid, match="it is about job_id None, the Process has 7"):
        verify(altered(KEY, job_id=None), PROCESS, public_key=KEY.public)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facts": ("a 1", "b ä", "x")}, "found x"),
        ({"facts": ("a 1",)}, "missed b ä"),
        ({"expected": ("a 1", "b ä", "z")}, "missed z"),
        ({"sealed": False}, "nothing differs"),
    ],
    ids=["more", "less", "more expected", "said not to be"],
)
def test_what_was_found_is_compared_again(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AttestationInvalid) as caught:
        verify(altered(KEY, **changes), PROCESS, public_key=KEY.public)
    assert str(caught.value) == f"the container was not sealed: {words}"


# --- what is signed ---

SIGNED = signed_bytes(GOOD)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_any_byte_of_what_is_signed_counts(place: int, change: int) -> None:
    changed = bytearray(SIGNED)
    changed[place] ^= change
    assert not is_signed(bytes(changed), signature=GOOD.signature, public_key=KEY.public)


def test_what_is_signed_is_canonical_json_without_the_signature() -> None:
    values = json.loads(SIGNED)
    assert set(values) == set(Attestation.model_fields) - {"signature"}
    again = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.encode() == SIGNED
    assert "b ä".encode() in SIGNED


def test_what_is_signed_stays_the_same_from_release_to_release() -> None:
    # Verified by programs that are not ours: a change of this text needs a new `version`.
    assert SIGNED.decode() == (
        '{"attested_at":"2026-03-04T05:06:07Z","expected":["a 1","b ä","? c"],'
        f'"facts":["a 1","b ä"],"image_sha256":"{"1" * 64}","job_id":7,"missing":[],'
        f'"node":"node1","process_id":"{process_id(1)}","public_key":"{KEY.public}",'
        f'"sbprobe_sha256":"{"4" * 64}","sbseal_sha256":"{"3" * 64}",'
        f'"script_sha256":"{"2" * 64}","sealed":true,"unexpected":[],"version":1}}'
    )


def test_what_is_stored_and_read_again_is_still_signed() -> None:
    stored = json.loads(json.dumps(GOOD.model_dump(mode="json")))
    read = Attestation.model_validate(stored, strict=False)
    assert read == GOOD
    verify(read, PROCESS, public_key=KEY.public)


@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=10))
def test_whatever_was_found_survives_being_stored(facts: list[str], node: str) -> None:
    made = attest(SUBJECT, Found(node, START, tuple(facts)), EXPECTED, KEY)
    read = Attestation.model_validate_json(made.model_dump_json())
    assert signed_bytes(read) == signed_bytes(made)
    assert is_signed(signed_bytes(read), signature=read.signature, public_key=KEY.public)
