"""`slurmbridge show --verify`: what it says, and that it says nothing good of anything less."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.container.attestation import Found, Subject, attest
from slurmbridge.container.signing import SigningKey
from slurmbridge.lifecycle import ProcessState
from slurmbridge.store import KeyStore
from tests.support.bench import Bench, PlayedSite, refused
from tests.support.builders import KEY, OTHER_KEY
from tests.support.front import NOW, SPEC, opened


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened() as front:
        KeyStore(front.database).register(KEY.public, now=NOW)
        yield Bench(front, PlayedSite(front, folder=tmp_path), tmp_path)


def attested(bench: Bench, key: SigningKey = KEY, facts: tuple[str, ...] = ("a",)) -> str:
    """A Process that has ended, with an attestation."""
    one = bench.front.client().submit(SPEC).id
    subject = Subject(one, 7, "1" * 64, "2" * 64, "3" * 64, "4" * 64)
    made = attest(subject, Found("node1", NOW, facts), ("a",), key)
    values: dict[str, Any] = {
        "job_id": 7,
        "image_sha256": "1" * 64,
        "script_sha256": "2" * 64,
        "attestation": made.model_dump(mode="json"),
        "attested": made.sealed,
    }
    bench.front.end(one, ProcessState.COMPLETE, **values)
    return one


def test_what_is_attested_is_told(bench: Bench) -> None:
    one = attested(bench)
    result = bench.run("show", one, "--verify")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "sealed: 1 facts found as expected",
        "on node1, job 7, at 2025-03-04 05:06:07+00:00, before the program started",
        f"image {'1' * 64}",
        f"script {'2' * 64}",
        f"sbseal {'3' * 64}",
        f"signed by the bridge: {KEY.public}",
    ]
    assert bench.json("show", one, "--verify")["public_key"] == KEY.public


def test_a_key_that_was_noted_counts_in_any_case_of_letters(bench: Bench) -> None:
    one = attested(bench)
    result = bench.run("show", one, "--verify", "--key", KEY.public.upper())
    assert result.stdout.splitlines()[-1] == f"signed by the given key: {KEY.public}"


def test_another_key_than_the_noted_one_does_not_count(bench: Bench) -> None:
    words = ["show", attested(bench), "--verify", "--key", OTHER_KEY.public]
    assert "the signature is not one of this bridge's key" in refused(bench.run(*words), code=1)


def test_a_key_that_the_bridge_does_not_know_does_not_count(bench: Bench) -> None:
    said = refused(bench.run("show", attested(bench, OTHER_KEY), "--verify"), code=1)
    assert f"{OTHER_KEY.public} is no key of this bridge" in said


def test_what_was_not_sealed_fails(bench: Bench) -> None:
    one = attested(bench, facts=("b",))
    said = refused(bench.run("show", one, "--verify"), code=1)
    assert "the container was not sealed: found b; missed a" in said


def test_what_is_not_attested_is_a_wrong_request(bench: Bench) -> None:
    one = bench.front.client().submit(SPEC).id
    said = refused(bench.run("show", one, "--verify"))
    assert f"there is no attestation of Process {one}" in said


@pytest.mark.parametrize("key", ["", "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n"])
def test_a_key_that_is_none_is_a_wrong_call(bench: Bench, key: str) -> None:
    said = refused(bench.run("show", attested(bench), "--verify", "--key", key))
    assert "--key takes a public key: 64 hexadecimal digits" in said


@pytest.mark.parametrize("words", [["--key", KEY.public], ["--verify", "--events"]])
def test_options_that_would_do_nothing_are_refused(bench: Bench, words: list[str]) -> None:
    refused(bench.run("show", attested(bench), *words))
