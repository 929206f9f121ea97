"""From what a node found to a signed attestation, and back."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from slurmbridge.container.facts import Differences, compare
from slurmbridge.container.signing import SigningKey, is_signed
from slurmbridge.errors import AttestationInvalid
from slurmbridge.model import Attestation, Process

VERSION = 1
_TOLD_LINES = 20
_TOLD_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Found:
    """What the script on a node left of its probe."""

    node: str
    at: datetime
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What an attestation is about."""

    process_id: str
    job_id: int | None
    image_sha256: str
    script_sha256: str
    sbseal_sha256: str
    sbprobe_sha256: str


def read_found(attested: str | None, facts: str | None) -> Found | None:
    """Read the files `attested` and `facts` of a context; None when the probe did not end."""
    words = re.fullmatch(r"(\S+) ([0-9]{1,11})", (attested or "").strip())
    if facts is None or words is None:
        return None
    at = datetime.fromtimestamp(int(words[2]), UTC)
    return Found(words[1], at, tuple(facts.splitlines()))


def attest(subject: Subject, found: Found, expected: Sequence[str], key: SigningKey) -> Attestation:
    """Judge what was found, and sign all of it."""
    differences = compare(found.facts, expected)
    unsigned = Attestation(
        version=VERSION,
        process_id=subject.process_id,
        job_id=subject.job_id,
        node=found.node,
        attested_at=found.at,
        image_sha256=subject.image_sha256,
        script_sha256=subject.script_sha256,
        sbseal_sha256=subject.sbseal_sha256,
        sbprobe_sha256=subject.sbprobe_sha256,
        sealed=not differences,
        unexpected=differences.unexpected,
        missing=differences.missing,
        facts=found.facts,
        expected=tuple(expected),
        public_key=key.public,
    )
    return unsigned.model_copy(update={"signature": key.sign(signed_bytes(unsigned))})


def signed_bytes(attestation: Attestation) -> bytes:
    """What is signed: JSON without `signature`, keys sorted, no spaces, UTF-8."""
    values = attestation.model_dump(mode="json", exclude={"signature"})
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify(attestation: Attestation, process: Process, *, public_key: str) -> None:
    """Check that the bridge with this key attests the seal of this very Process.

    Raises:
        AttestationInvalid: with what is wrong.
    """
    if not is_signed(
        signed_bytes(attestation), signature=attestation.signature, public_key=public_key
    ):
        raise AttestationInvalid("the signature is not one of this bridge's key over this text")
    if attestation.version != VERSION:
        raise AttestationInvalid(f"its version is {attestation.version}, not {VERSION}")
    about = {
        "process_id": (attestation.process_id, process.id),
        "job_id": (attestation.job_id, process.job_id),
        "image_sha256": (attestation.image_sha256, process.image_sha256),
        "script_sha256": (attestation.script_sha256, process.script_sha256),
    }
    for name, (attested, stored) in about.items():
        if attested != stored:
            raise AttestationInvalid(f"it is about {name} {attested}, the Process has {stored}")
    differences = compare(attestation.facts, attestation.expected)
    if differences or not attestation.sealed:
        raise AttestationInvalid(f"the container was not sealed: {sentence(differences)}")


def sentence(differences: Differences) -> str:
    """What differed, in words: the first few of each kind, for the attestation has them all."""
    parts = []
    if differences.unexpected:
        parts.append(f"found {_listed(differences.unexpected)}")
    if differences.missing:
        parts.append(f"missed {_listed(differences.missing)}")
    return "; ".join(parts) or "nothing differs"


def _listed(lines: Sequence[str]) -> str:
    # A reason is one line of text, and PostgreSQL takes no NUL in it.
    shown = [line[:_TOLD_CHARACTERS].replace("\0", "\\x00") for line in lines[:_TOLD_LINES]]
    more = len(lines) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
