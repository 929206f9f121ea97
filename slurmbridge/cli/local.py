"""Commands for operators: on a host of the bridge, with its configuration."""

import re
from typing import Annotated

import typer

from slurmbridge.cli import output, remote, specfile
from slurmbridge.cli.crates import crate
from slurmbridge.cli.doctor import doctor
from slurmbridge.cli.remote import AsJson
from slurmbridge.cli.root import group, session
from slurmbridge.errors import RequestError

_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_URL_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")

TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Whom the token belongs to.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(render)
    app.command()(doctor)
    app.command()(crate)
    group(
        app,
        "config",
        "The configuration of this host.",
        check=check_config,
        show=show_config,
        migrate=migrate,
    )
    group(
        app,
        "tokens",
        "Who may speak to the API.",
        add=add_token,
        list=list_tokens,
        remove=remove_token,
    )


def render(context: typer.Context, spec: remote.SpecName, as_json: AsJson = False) -> None:
    """Print the sbatch script that would be submitted."""
    parsed = specfile.read(spec)
    text = session(context).site().render(parsed)
    if as_json:
        output.document({"script": text})
    else:
        typer.echo(text, nl=False)


def build_helpers(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Also when they are built from this source.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the sealing helpers for nodes of this host's architecture, into the images folder.

    A Runner does it at its start; gcc and libc's static library are needed.
    """
    helpers = session(context).site().build_helpers(force=force)
    if as_json:
        output.document(helpers.model_dump(mode="json"))
        return
    typer.echo(helpers.path)
    typer.echo(f"sbseal {helpers.sbseal_sha256}")
    typer.echo(f"sbprobe {helpers.sbprobe_sha256}")


def check_config(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the configuration, and that what it names is there; exit code 2 if not."""
    problems = session(context).site().check()
    if as_json:
        output.document({"problems": problems})
    else:
        for problem in problems:
            typer.echo(output.plain(problem))
    if problems:
        raise typer.Exit(2)
    if not as_json:
        typer.echo("the configuration is sound")


def show_config(context: typer.Context, as_json: AsJson = False) -> None:
    """Show every setting and where it comes from. Passwords are left out."""
    from slurmbridge.settings import config_file, origins

    current = session(context)
    found = [
        (key, _without_password(value), origin)
        for key, value, origin in origins(current.settings(), config_file(current.config))
    ]
    if as_json:
        names = ("key", "value", "origin")
        output.document({"settings": [dict(zip(names, row, strict=True)) for row in found]})
    else:
        output.table(("KEY", "VALUE", "ORIGIN"), found)


def _without_password(value: object) -> object:
    return _URL_PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value


def migrate(context: typer.Context) -> None:
    """Bring the database to the schema of this version."""
    session(context).site().migrate()


def add_token(
    context: typer.Context,
    name: TokenName,
    reviews: Annotated[
        bool, typer.Option("--may-review", help="Also for letting out the outputs of others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once. An earlier one of the same name ends."""
    if not _TOKEN_NAME.fullmatch(name):
        raise RequestError(f"{name!r} is no name: 1 to 64 letters, digits and . _ @ -")
    token = session(context).site().desk().add_token(name, reviews=reviews)
    if as_json:
        output.document({"name": name, "token": token})
    else:
        typer.echo(token)


def list_tokens(context: typer.Context, as_json: AsJson = False) -> None:
    """List the names that have a token."""
    found = [
        (name, created_at.isoformat(" ", "seconds"), reviews)
        for name, created_at, reviews in session(context).site().token_names()
    ]
    if as_json:
        names = ("name", "created_at", "reviews")
        output.document({"tokens": [dict(zip(names, row, strict=True)) for row in found]})
    else:
        shown = ((name, at, "yes" if reviews else "") for name, at, reviews in found)
        output.table(("NAME", "CREATED", "REVIEWS"), shown)


def remove_token(context: typer.Context, name: TokenName) -> None:
    """End a token."""
    if not session(context).site().remove_token(name):
        raise RequestError(f"there is no token of the name {name!r}")
