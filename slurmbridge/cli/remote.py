"""Commands for submitters: everything goes through the API."""

from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from slurmbridge.cli import attested, output, progress, reasons, specfile, traces
from slurmbridge.cli.root import session
from slurmbridge.client import Client
from slurmbridge.errors import RequestError
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ProcessId = Annotated[str, typer.Argument(metavar="ID")]
ProcessIds = Annotated[list[str], typer.Argument(metavar="ID...")]
SpecName = Annotated[
    str, typer.Argument(metavar="SPEC", help="A .toml or .json file, or - for JSON on stdin.")
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", metavar="NAME", help="Instead of the usual one.")
]


class Stream(StrEnum):
    """What can be read of a Process."""

    STDOUT = "stdout"
    STDERR = "stderr"
    JOB = "job"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (
        submit,
        ps,
        show,
        wait,
        logs,
        traces.trace,
        cancel,
        capabilities,
        clusters,
        script,
    ):
        app.command()(command)


def submit(
    context: typer.Context,
    spec: SpecName,
    wait_for_end: Annotated[
        bool, typer.Option("--wait", help="Wait until the Process has ended.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="A name for this request: sent again, it is accepted once."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a Process and print its id.

    With --wait, changes appear on stderr, and the exit code is 0 only if the Process is COMPLETE;
    else it is that of the program if that is 1 to 125, else 1.
    """
    parsed = specfile.read(spec)
    with session(context).client() as client:
        process = client.submit(parsed, idempotency_key=idempotency_key)
        if not as_json:
            typer.echo(process.id)
        if wait_for_end:
            process = progress.wait(client, process.id)
    if as_json:
        output.document(process.model_dump(mode="json"))
    if wait_for_end:
        raise typer.Exit(progress.exit_code([process]))


def ps(
    context: typer.Context,
    state: Annotated[
        list[ProcessState] | None,
        typer.Option(case_sensitive=False, help="Only these; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Without a limit.")] = False,
    as_json: AsJson = False,
) -> None:
    """List Processes, newest first."""
    with session(context).client() as client:
        processes = _newest(client, state or [], None if everything else limit)
    if as_json:
        output.document({"processes": output.values(processes)})
        return
    output.table(
        ("ID", "STATE", "JOB", "SLURM", "CREATED", "BY", "IMAGE"),
        (
            (
                process.id,
                process.state,
                process.job_id,
                process.slurm_state,
                process.created_at.isoformat(" ", "seconds"),
                process.submitted_by,
                process.spec.image,
            )
            for process in processes
        ),
    )


def _newest(client: Client, states: list[ProcessState], limit: int | None) -> list[Process]:
    if limit is not None and limit <= _PAGE_LIMIT:
        return list(client.page(limit=limit, states=states).processes)
    return list(islice(client.iterate(states=states), limit))


_PAGE_LIMIT = 500


def show(
    context: typer.Context,
    process_id: ProcessId,
    with_events: Annotated[
        bool, typer.Option("--events", help="Also what was observed and done.")
    ] = False,
    why: Annotated[
        bool, typer.Option("--why", help="How it came to its state, and by what evidence, instead.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify the attestation of its container instead.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="HEX",
            help="The public key that must have signed; else any that the bridge says is its own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one Process.

    With --verify, the exit code is 0 only if the bridge attests that its container was sealed.
    """
    if key is not None and not verify:
        raise RequestError("--key goes with --verify: without it nothing is verified")
    if with_events + verify + why > 1:
        raise RequestError("--events, --why and --verify exclude each other")
    if why:
        reasons.show(context, process_id, as_json)
        return
    if verify:
        attested.verify(context, process_id, key, as_json)
        return
    with session(context).client() as client:
        process = client.get(process_id)
        events = client.events(process_id) if with_events else []
    values = process.model_dump(mode="json")
    if as_json:
        output.document(values | {"events": output.values(events)} if with_events else values)
        return
    if process.requirements:
        values["requirements"] = output.short(process.requirements)
    for name, value in values.items():
        if value not in (None, [], False):
            typer.echo(f"{name}: {output.plain(value)}")
    if with_events:
        typer.echo()
        output.table(
            ("AT", "STATE", "SOURCE", "DETAIL"),
            (
                (event.at.isoformat(" ", "seconds"), event.state, event.source, event.detail)
                for event in events
            ),
        )


def wait(context: typer.Context, process_ids: ProcessIds, as_json: AsJson = False) -> None:
    """Wait until Processes have ended.

    The exit code is 0 only if all are COMPLETE; else it is that of the first other one's program
    if that is 1 to 125, else 1.
    """
    with session(context).client() as client:
        several = len(process_ids) > 1
        processes = [
            progress.wait(client, process_id, prefix=f"{process_id} " if several else "")
            for process_id in process_ids
        ]
    if as_json:
        output.document({"processes": output.values(processes)})
    raise typer.Exit(progress.exit_code(processes))


def logs(
    context: typer.Context,
    process_id: ProcessId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the Process has ended.")
    ] = False,
    stream: Annotated[
        Stream, typer.Option(help="Of the program, or of the job around it.")
    ] = Stream.STDOUT,
    as_json: AsJson = False,
) -> None:
    """Print what the program printed, byte for byte."""
    if follow and as_json:
        raise RequestError("--json and --follow exclude each other: one document has an end")
    with session(context).client() as client:
        if as_json:
            _log_document(client, process_id, stream)
            return
        sink = output.binary_stdout()
        for data in (
            client.follow_log(process_id, stream)
            if follow
            else _log_so_far(client, process_id, stream)
        ):
            sink.write(data)
            sink.flush()


def _log_so_far(client: Client, process_id: str, stream: str) -> list[bytes]:
    pieces = []
    offset = 0
    while (piece := client.log(process_id, stream, offset)).data:
        pieces.append(piece.data)
        offset = piece.next_offset
    return pieces


def _log_document(client: Client, process_id: str, stream: str) -> None:
    state = client.get(process_id).state
    data = b"".join(_log_so_far(client, process_id, stream))
    text = data.decode(errors="backslashreplace")
    output.document({"stream": stream, "state": state, "bytes": len(data), "text": text})


def cancel(context: typer.Context, process_ids: ProcessIds, as_json: AsJson = False) -> None:
    """Ask for the end of Processes."""
    canceled: list[Process] = []
    refused: list[str] = []
    with session(context).client() as client:
        for process_id in process_ids:
            try:
                canceled.append(client.cancel(process_id))
            except RequestError as error:
                refused.append(str(error))
    if as_json:
        output.document({"processes": output.values(canceled)})
    else:
        for process in canceled:
            typer.echo(f"{process.id} {process.state}")
    if refused:
        raise RequestError("; ".join(refused))


def clusters(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the clusters of the site, and how it goes there."""
    with session(context).client() as client:
        found = client.clusters()
    if as_json:
        output.document({"clusters": output.values(found)})
        return
    output.table(
        ("CLUSTER", "RUNNERS", "SLURM", "IN PROGRESS", "CALLS TO SLURM"),
        (
            (
                f"{entry.name}{' (usual)' if entry.usual else ''}",
                str(entry.runners),
                "answers" if entry.reached else "; ".join(entry.problems) or "nobody asks",
                str(entry.in_progress),
                " ".join(f"{kind}={n}" for kind, n in sorted(entry.scheduler_calls.items())),
            )
            for entry in found
        ),
    )


def capabilities(context: typer.Context, cluster: Cluster = None, as_json: AsJson = False) -> None:
    """Show what a cluster offers."""
    with session(context).client() as client:
        capability = client.capability(cluster)
    if as_json:
        output.document(capability.model_dump(mode="json"))
        return
    typer.echo(f"cluster: {output.plain(capability.cluster)}")
    typer.echo(f"slurm: {output.plain(capability.slurm_version)}")
    typer.echo(f"accounts: {output.plain(', '.join(capability.accounts)) or '-'}")
    if capability.default_account:
        typer.echo(f"default account: {output.plain(capability.default_account)}")
    typer.echo()
    output.table(
        (
            "PARTITION",
            "DEFAULT",
            "UP",
            "NODES",
            "SEAL",
            "TRACE",
            "CPUS/NODE",
            "MIB/NODE",
            "MINUTES",
        ),
        (
            (
                partition.name,
                "yes" if partition.default else "no",
                "yes" if partition.up else "no",
                partition.nodes,
                partition.sealing_nodes,
                partition.tracing_nodes,
                partition.cpus_per_node,
                partition.memory_mib_per_node,
                partition.time_limit_minutes,
            )
            for partition in capability.partitions
        ),
    )
    for refused in capability.refused:
        typer.echo(f"{refused.name} is not offered: {output.plain(refused.reason)}")
    if waiting := [node.node for node in capability.nodes if node.can_seal is None]:
        typer.echo(f"not examined yet: {output.plain(', '.join(waiting))}")


def list_images(context: typer.Context, as_json: AsJson = False) -> None:
    """List the images that are recorded, newest first, and which of a name is the one that runs."""
    with session(context).client() as client:
        images = client.images()
    if as_json:
        output.document({"images": output.values(images)})
        return
    output.table(
        ("NAME", "RUNS", "SHA256", "MIB", "RECORDED", "ORIGIN", "SIGNED", "REVOKED"),
        (
            (
                image.name,
                "yes" if image.runs else "no",
                image.sha256,
                image.size_bytes >> 20,
                image.built_at.isoformat(" ", "seconds"),
                output.origin(image),
                "yes" if image.signed else "no",
                image.revoked_at and image.revoked_at.isoformat(" ", "seconds"),
            )
            for image in images
        ),
    )


def script(context: typer.Context, process_id: ProcessId, as_json: AsJson = False) -> None:
    """Print the sbatch script of a Process."""
    with session(context).client() as client:
        text = client.script(process_id)
    if text is None:
        raise RequestError(f"the script of Process {process_id} is not rendered yet")
    if as_json:
        output.document({"script": text})
    else:
        typer.echo(text, nl=False)
