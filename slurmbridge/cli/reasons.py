"""How a Process came to its state: each move with its evidence."""

from collections.abc import Iterator, Sequence

import typer

from slurmbridge.cli import output
from slurmbridge.cli.root import session
from slurmbridge.model import Event, Process


def show(context: typer.Context, process_id: str, as_json: bool) -> None:
    """Print the state in a sentence, and the moves that led to it."""
    with session(context).client() as client:
        process = client.get(process_id)
        moves = list(transitions(client.events(process_id)))
    if as_json:
        output.document({"sentence": sentence(process), "transitions": output.values(moves)})
        return
    typer.echo(output.plain(sentence(process)))
    typer.echo()
    output.table(
        ("AT", "STATE", "SOURCE", "EVIDENCE"),
        (
            (move.at.isoformat(" ", "seconds"), move.state, move.source, move.detail)
            for move in moves
        ),
    )


def sentence(process: Process) -> str:
    """The state, why it is so, and what is expected. Pure."""
    text = f"{process.id} is {process.state}"
    if process.reason:
        text += f": {process.reason}"
    elif process.state.final and process.exit_code is not None:
        text += f": the program ended with exit code {process.exit_code}"
    if process.expected_start and not process.state.final:
        text += f"; Slurm means to start it at {process.expected_start.isoformat(' ', 'minutes')}"
    if process.job_id is not None:
        known = f", {process.slurm_state}" if process.slurm_state else ""
        text += f" (job {process.job_id}{known})"
    return text


def transitions(events: Sequence[Event]) -> Iterator[Event]:
    """Of all events, those by which the state changed. Pure."""
    before = None
    for event in events:
        if event.state is not before:
            yield event
        before = event.state
