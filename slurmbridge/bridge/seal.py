"""What a Process's container had to be, and what it was found to be: both as stored. Pure."""

from collections.abc import Mapping
from typing import Any

from slurmbridge.bridge.render import Prepared
from slurmbridge.container.attestation import Subject, attest, read_found
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.left import Left
from slurmbridge.model import Attestation, Helpers
from slurmbridge.store import Claimed


def sealing(prepared: Prepared, helpers: Helpers) -> Mapping[str, Any]:
    """What is stored before the job can exist: a later version may expect something else."""
    return {
        "sbseal_sha256": helpers.sbseal_sha256,
        "sbprobe_sha256": helpers.sbprobe_sha256,
        "expected": list(prepared.expected),
    }


def attestation(entry: Claimed, left: Left, key: SigningKey) -> Attestation | None:
    """What the node found, judged again and signed; None when it did not come to that."""
    found = read_found(left.attested, left.facts)
    if found is None or entry.sealing is None:
        return None
    assert entry.image_sha256, "stored with `sealing`"
    assert entry.script_sha256, "stored with `sealing`"
    subject = Subject(
        entry.id,
        left.taken_by,
        entry.image_sha256,
        entry.script_sha256,
        entry.sealing["sbseal_sha256"],
        entry.sealing["sbprobe_sha256"],
    )
    return attest(subject, found, entry.sealing["expected"], key)
