"""`slurmbridge crate`: a finished Process as a research object."""

from pathlib import Path
from typing import Annotated

import typer

from slurmbridge.cli import output
from slurmbridge.cli.root import session


def crate(
    context: typer.Context,
    process_id: Annotated[str, typer.Argument(metavar="ID")],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A new folder; with --five-safes, a ZIP.")
    ],
    five_safes: Annotated[
        bool, typer.Option("--five-safes", help="A BagIt bag, as Five Safes RO-Crate asks for.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write what is known of a finished Process, with its outputs, as an RO-Crate.

    Inputs are named with their checksums and never copied.
    """
    session(context).site().crate_packer().pack(process_id, target, five_safes=five_safes)
    if as_json:
        output.document({"process": process_id, "crate": str(target)})
    else:
        typer.echo(f"{target} written")
