"""Secret files. What is in them is shown nowhere."""

import configparser
import os
import stat
from pathlib import Path

from pydantic import SecretStr

from slurmbridge.errors import ConfigurationError

_LIMIT = 64 * 1024


def read_secret(path: Path) -> SecretStr:
    """What a secret file holds, without the end of its last line.

    Raises:
        ConfigurationError: it cannot be read, or somebody else can read or replace it.
    """
    try:
        # A FIFO must not block; a link is fine, as what it leads to is looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if why := _why_not(status):
                raise ConfigurationError(f"the secret file {path} {why}")
            content = file.read(_LIMIT + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the secret file {path} cannot be read: {error.strerror}"
        ) from error
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # With its cause, the content would be in the traceback.
        raise ConfigurationError(f"the secret file {path} is no UTF-8 text") from None
    if not text or len(content) > _LIMIT:
        raise ConfigurationError(f"the secret file {path} is empty or too large")
    return SecretStr(text)


def read_line(path: Path) -> SecretStr:
    """What a secret file of one line holds. Raises ConfigurationError."""
    secret = read_secret(path)
    if not secret.get_secret_value().isprintable():
        raise ConfigurationError(f"the secret file {path} holds more than one line")
    return secret


def read_access_key(path: Path) -> tuple[SecretStr, SecretStr, SecretStr | None]:
    """Id, secret and session token of a file as of ~/.aws/credentials, with one section.

    Raises:
        ConfigurationError
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_secret(path).get_secret_value())
    except configparser.Error:
        # The parser's own words show lines of the file.
        raise ConfigurationError(_no_key(path)) from None
    if len(parser.sections()) != 1:
        raise ConfigurationError(_no_key(path))
    section = parser[parser.sections()[0]]
    key, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
    if not key or not secret:
        raise ConfigurationError(_no_key(path))
    token = section.get("aws_session_token")
    return SecretStr(key), SecretStr(secret), SecretStr(token) if token else None


def _no_key(path: Path) -> str:
    return (
        f"the secret file {path} is not of one section with aws_access_key_id and "
        "aws_secret_access_key"
    )


def _why_not(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid} and not to the one who reads it"
    mode = stat.S_IMODE(status.st_mode)
    return f"can be used by others (mode {mode:04o}): chmod 600 it" if mode & 0o077 else None
