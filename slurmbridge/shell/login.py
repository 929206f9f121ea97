"""With what one logs in: key files, certificates, the agent. No passwords, and no questions."""

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from paramiko import (
    Agent,
    ECDSAKey,
    Ed25519Key,
    PasswordRequiredException,
    PKey,
    RSAKey,
    SSHException,
    Transport,
)
from paramiko.pkey import PublicBlob
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.certificates import (
    Certificate,
    CertificateUnreadable,
    fingerprint,
    read_certificate,
    read_certificate_file,
)
from slurmbridge.shell.target import SshTarget

_KINDS: tuple[type[PKey], ...] = (Ed25519Key, ECDSAKey, RSAKey)
# sshd ends a connection after six attempts.
_ATTEMPTS = 5


# An agent may ask its owner.
_AGENT_SECONDS = 10.0


class _Agent(Agent):
    """The agent at SSH_AUTH_SOCK, which has to answer in time."""

    def _connect(self, connection: socket.socket) -> None:
        connection.settimeout(_AGENT_SECONDS)
        try:
            super()._connect(connection)  # type: ignore[misc]
        except BaseException:
            connection.close()
            raise


@dataclass(frozen=True, slots=True)
class _Offer:
    key: PKey
    what: str


def log_in(transport: Transport, target: SshTarget) -> None:
    """Log in with what the target names, one after the other.

    Raises:
        ShellUnavailable: we are not let in; with all that was tried, and why it did not do.
        SSHException, EOFError: the connection was lost.
    """
    refused = []
    with _offers(target) as offers:
        for offer in offers[:_ATTEMPTS]:
            try:
                more = transport.auth_publickey(target.user, offer.key)
            except BadAuthenticationType as error:
                raise _refusal(target, f"takes no keys, only {error.allowed_types}") from error
            except AuthenticationException:
                if not transport.is_active():
                    raise
                refused.append(offer.what)
                continue
            if not more:
                return
            raise _refusal(target, f"asks for more than a key: {', '.join(more)}")
    raise _refusal(target, f"refuses {' and '.join(refused) or 'us: there is no key to show'}")


@contextmanager
def _offers(target: SshTarget) -> Iterator[list[_Offer]]:
    signed = _certificate(target.certificate) if target.certificate else None
    found = []
    if target.key:
        key = _read_key(target.key)
        found.append(_Offer(key, f"the key {target.key} ({fingerprint(key.asbytes())})"))
    if not target.agent:
        yield _with_certificate(found, signed, target)
        return
    try:
        agent = _Agent()
    except (OSError, SSHException) as error:
        raise ShellUnavailable(
            f"the ssh agent does not answer: {error}", never_started=True
        ) from error
    with closing(agent):
        for key in agent.get_keys():
            what = f"the agent's key {key.comment} ({fingerprint(key.blob)})"
            found.append(_Offer(key, what))
        yield _with_certificate(found, signed, target)


@dataclass(frozen=True, slots=True)
class _Signed:
    kind: str
    blob: bytes
    says: Certificate


def _with_certificate(
    offers: list[_Offer], signed: _Signed | None, target: SshTarget
) -> list[_Offer]:
    """With a certificate, it is what is offered, with the key that it is for."""
    if not signed:
        return offers
    for offer in offers:
        if offer.key.asbytes() == signed.says.key:
            offer.key.public_blob = PublicBlob(signed.kind, signed.blob)
            return [_Offer(offer.key, f"{offer.what} with the certificate {target.certificate}")]
    raise ShellUnavailable(
        f"the certificate {target.certificate} is for the key {fingerprint(signed.says.key)}, "
        "which is not there",
        never_started=True,
    )


def _certificate(path: Path) -> _Signed:
    try:
        kind, blob = read_certificate_file(path.read_text())
        says = read_certificate(blob)
    except (OSError, UnicodeDecodeError) as error:
        raise ShellUnavailable(f"{path} cannot be read: {error}", never_started=True) from error
    except CertificateUnreadable as error:
        raise ShellUnavailable(f"{path}: {error}", never_started=True) from error
    why = "is for a host and not for a user" if says.for_host else says.why_not_now(time.time())
    if why:
        raise ShellUnavailable(f"the certificate {path} {why}", never_started=True)
    return _Signed(kind, blob, says)


def _read_key(path: Path) -> PKey:
    try:
        status = path.stat()
        # As ssh does: a file of somebody else's is that one's to protect.
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o077:
            raise ShellUnavailable(
                f"the key {path} can be used by others (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}",
                never_started=True,
            )
        for kind in _KINDS:
            try:
                return kind.from_private_key_file(str(path))
            except PasswordRequiredException as error:
                raise ShellUnavailable(
                    f"the key {path} has a passphrase: add it to an agent (ssh-add {path}), "
                    "and use that",
                    never_started=True,
                ) from error
            except (SSHException, ValueError, AssertionError):
                continue
    except OSError as error:
        raise ShellUnavailable(f"the key {path}: {error.strerror}", never_started=True) from error
    raise ShellUnavailable(f"{path} holds no private key of a known type", never_started=True)


def _refusal(target: SshTarget, why: str) -> ShellUnavailable:
    return ShellUnavailable(f"{target} {why}", never_started=True)
