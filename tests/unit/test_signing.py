"""The bridge's key: made once, kept from others, and signing as RFC 8032 says."""

import os
import stat
from base64 import encodebytes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.container.signing import SigningKey, is_signed, load_key
from slurmbridge.errors import ConfigurationError
from tests.support.builders import KEY

# RFC 8032, section 7.1: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
each_vector = pytest.mark.parametrize(
    ("secret", "public", "message", "signature"), VECTORS, ids=["empty", "1 byte", "2 bytes"]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signing.key"


def pem(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


# --- the file ---


def test_a_key_is_made_once_and_for_its_owner_alone(path: Path) -> None:
    first = load_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert load_key(path).public == first.public
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_two_keys_are_not_the_same(tmp_path: Path) -> None:
    assert load_key(tmp_path / "a").public != load_key(tmp_path / "b").public


def test_of_several_that_start_at_once_all_have_the_same_key(path: Path) -> None:
    together = Barrier(8)

    def start(_: int) -> str:
        together.wait(10)
        return load_key(path).public

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(start, range(8)))
    assert found == {load_key(path).public}
    assert list(path.parent.iterdir()) == [path]


def test_what_one_that_died_in_between_left_is_no_obstacle(path: Path) -> None:
    path.with_name(f".{path.name}.{os.getpid()}").write_bytes(b"half a k")
    assert load_key(path).public == load_key(path).public


def test_whatever_the_callers_umask_is_a_key_is_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        load_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o666])
def test_a_key_that_others_can_get_at_is_refused(mode: int, path: Path) -> None:
    load_key(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"others may read .*signing\.key: chmod 600 it"):
        load_key(path)


def test_a_key_that_its_owner_can_only_read_is_taken(path: Path) -> None:
    public = load_key(path).public
    path.chmod(0o400)
    assert load_key(path).public == public


FOREIGN = bytes.fromhex("302e020100300506032b657f04220420") + bytes(32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\xfe\0",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n%s-----END PRIVATE KEY-----\n" % encodebytes(FOREIGN),
        pem(KEY._key, BestAvailableEncryption(b"password")),
    ],
    ids=["empty", "text", "bytes", "short", "of an unknown kind", "encrypted"],
)
def test_what_is_no_key_is_told_to_be_none(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"signing\.key cannot be used"):
        load_key(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(path: Path) -> None:
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="holds no Ed25519 key"):
        load_key(path)


def test_a_key_that_an_administrator_made_is_taken(path: Path) -> None:
    secret, public, _, _ = VECTORS[0]
    path.write_bytes(pem(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))))
    path.chmod(0o600)
    assert load_key(path).public == public


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*No such file"):
        load_key(tmp_path / "nowhere" / "key")


# --- signatures ---


@each_vector
def test_what_is_signed_is_what_the_standard_says(
    secret: str, public: str, message: str, signature: str
) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert key.public == public
    assert key.sign(bytes.fromhex(message)) == signature
    assert is_signed(bytes.fromhex(message), signature=signature, public_key=public)


@each_vector
def test_no_other_text_and_no_other_key_is_meant(
    secret: str, public: str, message: str, signature: str
) -> None:
    text = bytes.fromhex(message)
    assert not is_signed(text + b"\0", signature=signature, public_key=public)
    others = [vector[1] for vector in VECTORS if vector[0] != secret]
    assert len(others) == 2
    for other in others:
        assert not is_signed(text, signature=signature, public_key=other)


@given(st.binary(max_size=50), st.integers(0, 511))
def test_any_bit_of_a_signature_counts(text: bytes, bit: int) -> None:
    signature = int(KEY.sign(text), 16)
    changed = f"{signature ^ (1 << bit):0128x}"
    assert is_signed(text, signature=f"{signature:0128x}", public_key=KEY.public)
    assert not is_signed(text, signature=changed, public_key=KEY.public)


@given(st.text(), st.text())
def test_garbage_is_no_signature(signature: str, public_key: str) -> None:
    assert not is_signed(b"text", signature=signature, public_key=KEY.public)
    assert not is_signed(b"text", signature=KEY.sign(b"text"), public_key=public_key)


@pytest.mark.parametrize("public", ["", "00", KEY.public[:-2], f"{KEY.public}00", "0x" * 32])
def test_what_is_no_key_signs_nothing(public: str) -> None:
    assert not is_signed(b"text", signature=KEY.sign(b"text"), public_key=public)
