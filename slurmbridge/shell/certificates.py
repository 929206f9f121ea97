"""OpenSSH certificates (PROTOCOL.certkeys), as far as the outcome of a login depends on them."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256

from paramiko import Message, PKey, SSHException
from paramiko.pkey import UnknownKeyType

SUFFIX = "-cert-v01@openssh.com"
# How many fields the public key has, after the name of its type.
_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
}
_HOST = 2
_FOREVER = (1 << 64) - 1


class CertificateUnreadable(Exception):
    """It is no certificate, or one of a type that is not known."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. Times are seconds since 1970."""

    # The public key that it is for, as ssh writes it.
    key: bytes
    for_host: bool
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: bytes
    authority: bytes
    signed: bytes
    signature: bytes

    def why_not_now(self, now: float) -> str | None:
        """Why it is not valid at this time, if so."""
        if now < self.valid_after:
            return f"is not valid before {_moment(self.valid_after)}"
        if now >= self.valid_before:
            return f"expired at {_moment(self.valid_before)}"
        return None

    def why_not_host(self, host: str, now: float) -> str | None:
        """Why it does not vouch for a host, if so; its authority is for the caller to trust."""
        if not self.for_host:
            return "is for a user and not for a host"
        # OpenSSH takes patterns here, and no certificate for "any host".
        if not any(fnmatchcase(host.lower(), name.lower()) for name in self.principals):
            return f"is for {', '.join(self.principals) or 'nobody'}"
        if self.critical_options:
            return "has critical options, of which there are none for hosts"
        if why := self.why_not_now(now):
            return why
        return None if self._is_signed() else "is not signed by the authority that it names"

    def _is_signed(self) -> bool:
        try:
            authority = PKey.from_type_string(Message(self.authority).get_text(), self.authority)
            return bool(authority.verify_ssh_sig(self.signed, Message(self.signature)))
        except (SSHException, UnknownKeyType, ValueError):
            return False


def read_certificate(blob: bytes) -> Certificate:
    """Parse what ssh sends, and what the second word of a `-cert.pub` file holds in base64.

    Raises:
        CertificateUnreadable
    """
    message = Message(blob)
    try:
        kind = message.get_text().removesuffix(SUFFIX)
        message.get_binary()  # nonce
        plain = Message()
        plain.add_string(kind)
        for _ in range(_FIELDS[kind]):
            plain.add_string(message.get_binary())
        message.get_int64()  # serial
        role = message.get_int()
        message.get_binary()  # key id
        principals = Message(message.get_binary())
        after, before = message.get_int64(), message.get_int64()
        critical = message.get_binary()
        message.get_binary()  # extensions
        message.get_binary()  # reserved
        authority = message.get_binary()
        signed = message.get_so_far()
        signature = message.get_binary()
        names = tuple(_texts(principals))
    except (KeyError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise CertificateUnreadable("it is no certificate of a known type") from error
    if not signature:
        raise CertificateUnreadable("it ends in the middle")
    return Certificate(
        plain.asbytes(), role == _HOST, names, after, before, critical, authority, signed, signature
    )


def read_certificate_file(text: str) -> tuple[str, bytes]:
    """The type and the bytes of a certificate in a `-cert.pub` file.

    Raises:
        CertificateUnreadable
    """
    kind, _, rest = text.strip().partition(" ")
    try:
        blob = b64decode(rest.split()[0], validate=True)
    except (ValueError, IndexError):
        raise CertificateUnreadable("it is no certificate") from None
    if not kind.endswith(SUFFIX):
        raise CertificateUnreadable("it is no certificate")
    return kind, blob


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -lf` prints it."""
    return "SHA256:" + b64encode(sha256(key).digest()).decode().rstrip("=")


def _texts(message: Message) -> Sequence[str]:
    found = []
    while message.get_remainder():
        found.append(message.get_text())
    return found


def _moment(seconds: int) -> str:
    if seconds >= _FOREVER:
        return "for ever"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
