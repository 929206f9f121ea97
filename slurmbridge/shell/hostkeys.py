"""Which host keys are known: known_hosts files as OpenSSH reads them. Nothing is ever added."""

import hmac
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote

from slurmbridge.errors import HostKeyRefused
from slurmbridge.shell.certificates import (
    SUFFIX,
    CertificateUnreadable,
    fingerprint,
    read_certificate,
)

# What a key of a type signs with; in the order in which ssh asks for them.
_ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_SCAN = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key as a host shows it; with a certificate, what ssh sent as a whole."""

    kind: str
    key: bytes
    certificate: bytes | None = None

    def __str__(self) -> str:
        return f"{self.kind} {fingerprint(self.key)}"


@dataclass(frozen=True, slots=True)
class _Line:
    marker: str
    patterns: tuple[str, ...]
    kind: str
    key: bytes


class KnownHosts:
    """What a known_hosts file says about one host and port."""

    def __init__(self, path: Path, host: str, port: int) -> None:
        """Read the file anew.

        Raises:
            HostKeyRefused: there is no such file, or it cannot be read.
        """
        self._path = path
        self._host = host.lower()
        self._port = port
        self._name = self._host if port == 22 else f"[{self._host}]:{port}"
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise HostKeyRefused(
                f"no key of {self._name} is known: {path} cannot be read ({error.strerror}). "
                f"{self._how_to_add('ssh-ed25519')}",
                never_started=True,
            ) from None
        lines = [line for line in map(_read_line, text.splitlines()) if line]
        self._lines = [line for line in lines if _matches(self._name, line.patterns)]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What to ask the host for: first what is known of it, so that it shows that key."""
        known = [line.kind for line in self._lines if not line.marker]
        plain = sorted(_ALGORITHMS, key=lambda kind: kind not in known)
        asked = [algorithm for kind in plain for algorithm in _ALGORITHMS[kind]]
        signed = [f"{algorithm}{SUFFIX}" for algorithm in asked]
        if not any(line.marker == "@cert-authority" for line in self._lines):
            return tuple(asked)
        return tuple(signed + asked)

    def check(self, shown: HostKey, now: float) -> None:
        """Whether a host may be spoken to. `now` is in seconds since 1970.

        Raises:
            HostKeyRefused
        """
        revoked = {line.key for line in self._lines if line.marker == "@revoked"}
        if shown.key in revoked:
            raise self._refused(f"{self._name} shows {shown}, which {self._path} has as revoked.")
        if shown.certificate is not None:
            self._check_certificate(shown, shown.certificate, revoked, now)
            return
        known = [line for line in self._lines if not line.marker]
        if any(line.key == shown.key for line in known):
            return
        if known:
            keys = ", ".join(str(HostKey(line.kind, line.key)) for line in known)
            raise self._refused(
                f"the host key of {self._name} has CHANGED: it shows {shown}, and {self._path} has "
                f"{keys}. Somebody may be listening in, or the host was set up anew. Only if its "
                f"administrator says so: {self._forget()}, and then {self._scan(shown.kind)}"
            )
        raise self._refused(
            f"no key of {self._name} is in {self._path}; it shows {shown}. "
            f"{self._how_to_add(shown.kind)}"
        )

    def _check_certificate(
        self, shown: HostKey, blob: bytes, revoked: set[bytes], now: float
    ) -> None:
        try:
            certificate = read_certificate(blob)
        except CertificateUnreadable as error:
            raise self._refused(f"the certificate of {self._name}: {error}.") from error
        authorities = {line.key for line in self._lines if line.marker == "@cert-authority"}
        authority = fingerprint(certificate.authority)
        if certificate.authority in revoked:
            raise self._refused(f"the authority {authority} of {self._name} is revoked.")
        if certificate.authority not in authorities:
            raise self._refused(
                f"{self._name} shows a certificate of the authority {authority}, "
                f"which is not in {self._path}."
            )
        why = certificate.why_not_host(self._host, now)
        if certificate.key != shown.key:
            why = "is for another key"
        if why:
            raise self._refused(f"the certificate of the host {self._name} {why}.")

    def _refused(self, message: str) -> HostKeyRefused:
        return HostKeyRefused(message, never_started=True)

    def _how_to_add(self, kind: str) -> str:
        return (
            "Compare the fingerprint with what the host's administrator says (ssh-keygen -lf on "
            f"the host), and only then add it: {self._scan(kind)}"
        )

    def _forget(self) -> str:
        return f"ssh-keygen -R {quote(self._name)} -f {quote(str(self._path))}"

    def _scan(self, kind: str) -> str:
        kind = _SCAN.get(kind, "ecdsa")
        host, path = quote(self._host), quote(str(self._path))
        return f"ssh-keyscan -p {self._port} -t {kind} {host} >> {path}"


def _read_line(text: str) -> _Line | None:
    words = text.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0) if words[0].startswith("@") else ""
    if marker not in {"", "@cert-authority", "@revoked"} or len(words) < 3:
        return None
    try:
        return _Line(marker, tuple(words[0].split(",")), words[1], b64decode(words[2]))
    except ValueError:
        return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    found = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(name, pattern)
        elif pattern.startswith("!"):
            if _fits(name, pattern[1:]):
                return False
        else:
            found = found or _fits(name, pattern)
    return found


def _fits(name: str, pattern: str) -> bool:
    # OpenSSH knows '*' and '?' alone; to fnmatch '[' is special, and stands in "[host]:port".
    return fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _is_hash_of(name: str, pattern: str) -> bool:
    try:
        salt, hashed = (b64decode(part) for part in pattern.removeprefix("|1|").split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), hashed)
