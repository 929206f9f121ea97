"""`slurmbridge show --verify`: whether the bridge attests the seal of a Process."""

import re

import typer

from slurmbridge.cli import output
from slurmbridge.cli.root import session
from slurmbridge.errors import AttestationInvalid, RequestError
from slurmbridge.model import Attestation, Process


def verify(context: typer.Context, process_id: str, key: str | None, as_json: bool) -> None:
    """Verify, and say what was verified.

    Raises:
        AttestationInvalid, NotAttested
        RequestError: `key` is none.
    """
    if key is not None and not re.fullmatch("[0-9A-Fa-f]{64}", key):
        raise RequestError("--key takes a public key: 64 hexadecimal digits")
    with session(context).client() as client:
        process = client.get(process_id)
        attestation = client.attestation(process_id)
        known = [entry.public_key for entry in client.signing_keys()]
    _verify(attestation, process, key, known)
    if as_json:
        output.document(attestation.model_dump(mode="json"))
        return
    for line in _summary(attestation, pinned=key is not None):
        typer.echo(output.plain(line))


def _verify(attestation: Attestation, process: Process, key: str | None, known: list[str]) -> None:
    # Only here: a submitter's host needs no cryptography for anything else.
    from slurmbridge.container.attestation import verify as verify_signature

    if key is None and attestation.public_key not in known:
        raise AttestationInvalid(f"{attestation.public_key} is no key of this bridge")
    wanted = (key or attestation.public_key).lower()
    verify_signature(attestation, process, public_key=wanted)


def _summary(attestation: Attestation, *, pinned: bool) -> list[str]:
    whose = "the given key" if pinned else "the bridge"
    return [
        f"sealed: {len(attestation.facts)} facts found as expected",
        f"on {attestation.node}, job {attestation.job_id}, "
        f"at {attestation.attested_at.isoformat(' ', 'seconds')}, before the program started",
        f"image {attestation.image_sha256}",
        f"script {attestation.script_sha256}",
        f"sbseal {attestation.sbseal_sha256}",
        f"signed by {whose}: {attestation.public_key}",
    ]
