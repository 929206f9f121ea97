"""`slurmbridge trace`: what a traced Process did."""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from slurmbridge.cli import output
from slurmbridge.cli.root import session
from slurmbridge.errors import RequestError
from slurmbridge.trace import text
from slurmbridge.trace.report import TraceReport

_VIEWS: Mapping[str, Callable[[TraceReport], list[str]]] = {
    "summary": text.summary,
    "files": text.files,
    "network": text.network,
    "tree": text.tree,
}


def trace(  # noqa: PLR0913, PLR0917 (one for each option)
    context: typer.Context,
    process_id: Annotated[str, typer.Argument(metavar="ID")],
    files: Annotated[bool, typer.Option("--files", help="Every file, by place.")] = False,
    network: Annotated[bool, typer.Option("--network", help="Every address and socket.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Every process and program.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="What strace recorded, as it is.")] = False,
    html: Annotated[bool, typer.Option("--html", help="A page of HTML with all of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what a traced Process did, and the verdict on it.

    Without an option, a summary.
    """
    chosen = {"files": files, "network": network, "tree": tree, "raw": raw, "html": html}
    wanted = [name for name, asked in (chosen | {"json": as_json}).items() if asked]
    if len(wanted) > 1:
        raise RequestError(f"{' and '.join(f'--{name}' for name in wanted)} exclude each other")
    view = wanted[0] if wanted else "summary"
    with session(context).client() as client:
        match view:
            case "raw":
                sink = output.binary_stdout()
                for piece in client.raw_trace(process_id):
                    sink.write(piece)
                sink.flush()
            case "html":
                output.binary_stdout().write(client.trace_page(process_id))
                output.binary_stdout().flush()
            case "json":
                output.document(client.trace(process_id).model_dump(mode="json"))
            case _:
                for line in _VIEWS[view](client.trace(process_id)):
                    typer.echo(line)
