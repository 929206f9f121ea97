"""What appears on a terminal, in a pipe or in a file."""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, TextIO

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slurmbridge.lifecycle import FINAL_STATES, ProcessState
from slurmbridge.model import Image, InstalledRequirements

# Wide enough that no line for another program is folded.
_PIPE_WIDTH = 4096


def survive_encodings() -> None:
    """Let no character stop the output: what a terminal cannot show is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Write nowhere from now on: the reader has gone, and the interpreter flushes at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def plain(text: object) -> str:
    """On one line, with control characters escaped, so that no text can steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(text)
    )


def fail(sentence: object) -> None:
    """Say what went wrong."""
    typer.echo(f"slurmbridge: error: {plain(sentence)}", err=True)


def say(sentence: object) -> None:
    """Tell a person on stderr, away from the results."""
    typer.echo(plain(sentence), err=True)


def document(value: Any) -> None:
    """One JSON document on stdout. ASCII, so that it is the same on every terminal."""
    typer.echo(json.dumps(value, indent=2))


def values(models: Iterable[BaseModel]) -> list[dict[str, Any]]:
    """Models as JSON values."""
    return [model.model_dump(mode="json") for model in models]


def console(stream: TextIO) -> Console:
    """A console that takes text as it is."""
    return Console(
        file=stream,
        width=None if stream.isatty() else _PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout: columns aligned, nothing cut."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    console(sys.stdout).print(grid)


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    return Text(plain(value), style(value) if isinstance(value, ProcessState) else "")


def origin(image: Image) -> str:
    """Where an image is from."""
    added = f"added by {image.added_by}" if image.added_by else ""
    return ", ".join(filter(None, ["definition" if image.definition_sha256 else "", added]))


def short(found: InstalledRequirements) -> str:
    """What was installed, in a line; the hashes are in the JSON."""
    packages = ", ".join(f"{entry.name}=={entry.version}" for entry in found.lock)
    return f"{packages} (image {found.sha256})"


def style(state: ProcessState) -> str:
    """The colour of a state."""
    if state is ProcessState.COMPLETE:
        return "green"
    if state in FINAL_STATES:
        return "red"
    return "yellow" if state is ProcessState.UNKNOWN else "cyan"


def binary_stdout() -> BinaryIO:
    """Where bytes go as they are."""
    sys.stdout.flush()
    return sys.stdout.buffer
