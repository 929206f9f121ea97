"""Commands for images: which files are trusted. All but `list` on a host of the bridge."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slurmbridge.cli import output, remote
from slurmbridge.cli.remote import AsJson
from slurmbridge.cli.root import group, session
from slurmbridge.errors import RequestError
from slurmbridge.model import Image

if TYPE_CHECKING:
    from slurmbridge.container.trust import Verdict
    from slurmbridge.wiring import Site

_SHORT = 12
Target = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIGEST", help="A name, or 12 digits or more that the SHA-256 begins with."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group(
        app,
        "images",
        "The images that can be run.",
        list=remote.list_images,
        show=show,
        build=build,
        add=add,
        verify=verify,
        revoke=revoke,
    )


def build(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is already built from this definition.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build images from their definitions; all of them when none is named.

    What Apptainer prints appears on stderr.
    """
    site = session(context).site()
    images = [
        site.build_image(name, force=force, on_line=output.say)
        for name in names or site.definition_names()
    ]
    if as_json:
        output.document({"images": output.values(images)})
        return
    for image in images:
        typer.echo(f"{image.name} {image.sha256}")


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What specifications will say.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A SIF file.")],
    sha256: Annotated[str, typer.Option(metavar="DIGEST", help="The SHA-256 that it must have.")],
    remark: Annotated[str | None, typer.Option(help="Where it is from, and why.")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy an image into the images folder and record it. From then on its name runs it."""
    added = session(context).site().image_keeper().add(name, file, sha256=sha256, remark=remark)
    image, before = added.image, added.before
    if as_json:
        output.document(image.model_dump(mode="json") | {"changed": added.changed})
        return
    typer.echo(f"{image.name} {image.sha256}")
    if not added.changed:
        output.say(f"it is recorded already, and is what {image.name} runs")
    elif before is None or before.sha256 == image.sha256:
        output.say(f"{image.name} runs it")
    else:
        output.say(f"{image.name} runs it from now on, and no longer {before.sha256}")


def show(context: typer.Context, target: Target, as_json: AsJson = False) -> None:
    """Show all facts of an image: the one of this digest, or the latest of this name."""
    site = session(context).site()
    image = site.images().find(target)
    refused = site.why_refused(image)
    latest = site.images().get(image.name).sha256
    values = image.model_dump(mode="json") | {"runs": image.sha256 == latest and refused is None}
    if as_json:
        output.document(values)
        return
    for key, value in values.items():
        if isinstance(value, dict):
            for name, text in value.items():
                typer.echo(output.plain(f"{key}: {name}={text}"))
        elif value is not None:
            typer.echo(output.plain(f"{key}: {_word(value)}"))
    if refused is not None:
        typer.echo(output.plain(f"refused: {refused}"))
    elif image.sha256 != latest:
        typer.echo(f"what {image.name} runs: {latest}")


def verify(
    context: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|DIGEST...]", help="Without any, all that are not revoked."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare files with their records, and check signatures; exit code 1 if one fails."""
    site = session(context).site()
    keeper, records = site.image_keeper(), site.images()
    if targets:
        images = [records.find(target) for target in targets]
    else:
        images = [image for image in records.all() if image.revoked_at is None]
    verdicts = []
    for image in images:
        verdict = keeper.verify(image)
        verdicts.append(verdict)
        if not as_json:
            typer.echo(output.plain(_verdict_line(verdict)))
    if as_json:
        output.document({"images": [_verdict_values(verdict) for verdict in verdicts]})
    if any(verdict.problems for verdict in verdicts):
        raise typer.Exit(1)


def revoke(
    context: typer.Context,
    target: Target,
    reason: Annotated[str, typer.Option(help="Why; submitters are told.")],
    everything: Annotated[bool, typer.Option("--all", help="All images of this name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke an image for good: nothing new starts with it, nor does what waits in Slurm."""
    site = session(context).site()
    keeper = site.image_keeper()
    images = _to_revoke(site, target, everything=everything)
    revoked = []
    for image in images:
        fresh = keeper.revoke(image, reason=reason)
        now = site.images().find(image.sha256)
        revoked.append(now)
        if not as_json:
            when = now.revoked_at.isoformat(" ", "seconds") if now.revoked_at else ""
            words = "revoked" if fresh else f"was revoked already, at {when}: {now.revoked_reason}"
            typer.echo(output.plain(f"{now.name} {now.sha256} {words}"))
    if as_json:
        output.document({"images": output.values(revoked)})


def _to_revoke(site: "Site", target: str, *, everything: bool) -> list[Image]:
    records = site.images()
    found = records.find(target)
    named = [image for image in records.all() if image.name == target]
    if not named:
        if everything:
            raise RequestError("--all goes with the name of an image")
        return [found]
    open_ones = [image for image in named if image.revoked_at is None]
    if len(open_ones) > 1 and not everything:
        digests = ", ".join(image.sha256[:_SHORT] for image in open_ones)
        raise RequestError(
            f"{len(open_ones)} images of the name {target} are not revoked ({digests}): "
            "give the digest of one, or --all"
        )
    return open_ones or named


def _word(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _verdict_values(verdict: "Verdict") -> dict[str, object]:
    return {
        "name": verdict.image.name,
        "sha256": verdict.image.sha256,
        "origin": output.origin(verdict.image),
        "signed": verdict.signed,
        "problems": list(verdict.problems),
    }


def _verdict_line(verdict: "Verdict") -> str:
    image = verdict.image
    words = f"{image.name} {image.sha256[:_SHORT]}"
    if verdict.problems:
        return f"{words} FAILED: {'; '.join(verdict.problems)}"
    return f"{words} ok: {output.origin(image)}, {'signed' if verdict.signed else 'not signed'}"
