"""The bridge's Ed25519 key. The only home of cryptography."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from slurmbridge.errors import ConfigurationError


class SigningKey:
    """Signs, in the name of this bridge."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public(self) -> str:
        """The public key, as 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """The signature, as 128 hexadecimal digits."""
        return self._key.sign(data).hex()


def load_key(path: Path) -> SigningKey:
    """Read the key; make it where there is none.

    Raises:
        ConfigurationError: it is no Ed25519 key, others may read it, or it cannot be made.
    """
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"signing_key: others may read {path}: chmod 600 it")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"signing_key: {path} cannot be used: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"signing_key: {path} holds no Ed25519 key")
    return SigningKey(key)


def key_problem(path: Path) -> str | None:
    """Why the key cannot be used, or be made where there is none; None when it can."""
    try:
        if path.exists():
            load_key(path)
        elif not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return f"signing_key: {path} cannot be made: {path.parent} cannot be written to"
    except ConfigurationError as error:
        return str(error)
    except OSError as error:
        return f"signing_key: {path} cannot be used: {error.strerror}"
    return None


def _make(path: Path) -> None:
    text = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    # Whole or not at all, and never another one's: two services may start at the same time.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(fresh)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def is_signed(data: bytes, *, signature: str, public_key: str) -> bool:
    """Whether the holder of a key signed exactly this."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True
