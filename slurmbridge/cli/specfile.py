"""Reading a specification from a file or from stdin."""

import sys
from pathlib import Path

from slurmbridge.errors import BodyTooLarge, InvalidProcess
from slurmbridge.spec import SPEC_BYTES_LIMIT, ProcessSpec, parse_spec

STDIN = "-"


def read(name: str) -> ProcessSpec:
    """The specification in a .toml or .json file, or as JSON on stdin for "-".

    Raises:
        InvalidProcess: it cannot be read or accepted.
        BodyTooLarge
    """
    form = "json" if name == STDIN else _form(name)
    data = sys.stdin.buffer.read(SPEC_BYTES_LIMIT + 1) if name == STDIN else _bytes(name)
    if len(data) > SPEC_BYTES_LIMIT:
        raise BodyTooLarge(f"{name} has more than the {SPEC_BYTES_LIMIT} bytes of a specification")
    try:
        return parse_spec(data, form=form)
    except InvalidProcess as error:
        raise InvalidProcess(f"{name}: {error}", error.fields) from None


def _form(name: str) -> str:
    form = Path(name).suffix.removeprefix(".").lower()
    if form not in {"toml", "json"}:
        raise InvalidProcess(f"{name}: a specification is a .toml or .json file, or - for stdin")
    return form


def _bytes(name: str) -> bytes:
    try:
        with Path(name).open("rb") as stream:
            return stream.read(SPEC_BYTES_LIMIT + 1)
    except OSError as error:
        raise InvalidProcess(f"{name} cannot be read: {error.strerror}") from None
