"""Commands for reviewers: what waits, and whether it is let out."""

from typing import Annotated

import typer

from slurmbridge.cli import output
from slurmbridge.cli.remote import AsJson, ProcessId
from slurmbridge.cli.root import group, session
from slurmbridge.lifecycle import ReviewState
from slurmbridge.model import Process

Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept with the Process.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group(
        app,
        "outputs",
        "Outputs that wait for a review.",
        list=waiting,
        show=show,
        release=release,
        reject=reject,
    )


def waiting(
    context: typer.Context,
    state: Annotated[
        ReviewState, typer.Option(case_sensitive=False, help="How far the review is.")
    ] = ReviewState.WAITING,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the Processes whose outputs wait, newest first."""
    with session(context).client() as client:
        found = client.page(limit=limit, review=state).processes
    if as_json:
        output.document({"processes": output.values(found)})
        return
    rows = (
        (
            process.id,
            process.state,
            process.ended_at.isoformat(" ", "seconds") if process.ended_at else None,
            process.submitted_by,
            process.review.location if process.review else None,
        )
        for process in found
    )
    output.table(("ID", "STATE", "ENDED", "BY", "WHERE"), rows)


def show(context: typer.Context, process_id: ProcessId, as_json: AsJson = False) -> None:
    """Show what waits: where, which files, and what was kept back."""
    with session(context).client() as client:
        process = client.get(process_id)
    if as_json:
        output.document(process.model_dump(mode="json"))
        return
    review = process.review
    typer.echo(f"review: {review.state if review else 'none'}")
    if review and review.by:
        typer.echo(output.plain(f"decided: by {review.by} at {review.at}: {review.reason or '-'}"))
    where = (review.location if review else None) or process.outputs_location
    typer.echo(output.plain(f"where: {where or '-'}"))
    output.table(
        ("SIZE", "SHA-256", "FILE"),
        ((file.size_bytes, file.sha256, file.path) for file in process.outputs),
    )
    for line in process.outputs_ignored:
        typer.echo(output.plain(f"kept back: {line}"))


def release(
    context: typer.Context, process_id: ProcessId, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Let the outputs out: they are carried to where they were meant to go."""
    _decide(context, process_id, True, reason, as_json)


def reject(
    context: typer.Context, process_id: ProcessId, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Have the outputs destroyed."""
    _decide(context, process_id, False, reason, as_json)


def _decide(
    context: typer.Context, process_id: str, let_out: bool, reason: str | None, as_json: bool
) -> None:
    with session(context).client() as client:
        process = client.decide(process_id, release=let_out, reason=reason)
    _tell(process, as_json)


def _tell(process: Process, as_json: bool) -> None:
    if as_json:
        output.document(process.model_dump(mode="json"))
    elif process.review:
        typer.echo(process.review.state.value)
