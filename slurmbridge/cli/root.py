"""The root of all commands: common options, and how errors become exit codes."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from slurmbridge import __version__
from slurmbridge.cli import output
from slurmbridge.client import Client
from slurmbridge.errors import ConfigurationError, RequestError, SlurmBridgeError

if TYPE_CHECKING:
    from slurmbridge.settings import Settings
    from slurmbridge.wiring import Site

DEFAULT_URL = "http://127.0.0.1:8642"
TOKEN_VARIABLE = "SLURMBRIDGE_TOKEN"  # noqa: S105  a name, not a token
TOKEN_FILE_VARIABLE = "SLURMBRIDGE_TOKEN_FILE"  # noqa: S105  a name, not a token
INTERRUPTED = 130
_TOKEN_BYTES_LIMIT = 4096
_COMMON = ("--config", "--url", "--token-file")


def _open_site(settings: "Settings") -> "Site":
    # Only a host of the bridge has the libraries of a server.
    from slurmbridge.wiring import Site

    return Site(settings)


@dataclass
class Session:
    """What the common options say, and how to reach a bridge or to be one."""

    connect: Callable[[str, str], Client] = Client
    open_site: Callable[["Settings"], "Site"] = _open_site
    url: str = DEFAULT_URL
    config: Path | None = None
    token_file: Path | None = None

    def client(self) -> Client:
        """A connection to the bridge."""
        return self.connect(self.url, self._token())

    def settings(self) -> "Settings":
        """The configuration of this host."""
        from slurmbridge.settings import load

        return load(self.config)

    def site(self) -> "Site":
        """The bridge on this host."""
        return self.open_site(self.settings())

    def _token(self) -> str:
        token = os.environ.get(TOKEN_VARIABLE)
        file = self.token_file
        if file is None and not token:
            named = os.environ.get(TOKEN_FILE_VARIABLE)
            file = Path(named) if named else None
        if file is not None:
            return _token_of(file)
        if not token:
            raise ConfigurationError(
                f"no token: set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}, or give --token-file"
            )
        return token


def _token_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_TOKEN_BYTES_LIMIT).decode().strip()
    except OSError as error:
        raise ConfigurationError(f"the token file {file}: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"the token file {file} is not text") from None


def session(context: typer.Context) -> Session:
    """The session of a command."""
    return context.ensure_object(Session)


class Root(TyperGroup):
    """Errors end as one sentence and an exit code, never as a traceback."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run, then exit."""
        output.survive_encodings()
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        sys.exit(_exit_code(lambda: super(Root, self).main(_common_first(words), *more, **extra)))


def _exit_code(run: Callable[[], Any]) -> int:
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        output.drop_stdout()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        output.fail(error.format_message())
        return error.exit_code
    except (RequestError, ConfigurationError) as error:
        output.fail(error)
        return 2
    except SlurmBridgeError as error:
        output.fail(error)
        return 1
    return code if isinstance(code, int) else 0


def _common_first(words: list[str]) -> list[str]:
    """Common options may stand anywhere: people write them before and after the command."""
    common: list[str] = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
        elif word in _COMMON:
            common += [word, *(value for value in [next(remaining, None)] if value is not None)]
        elif word.partition("=")[0] in _COMMON:
            common.append(word)
        else:
            rest.append(word)
    return [*common, *rest] or ["--help"]


app = typer.Typer(cls=Root, pretty_exceptions_enable=False)


def group(parent: typer.Typer, name: str, about: str, **commands: Callable[..., None]) -> None:
    """Add a command that has commands of its own."""
    made = typer.Typer(help=about)
    for own_name, command in commands.items():
        made.command(own_name)(command)
    parent.add_typer(made, name=name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slurmbridge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="SLURMBRIDGE_CONFIG", help="The configuration file, on a host of the bridge."
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="SLURMBRIDGE_URL", help="Where the bridge listens.")
    ] = DEFAULT_URL,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"The file with the token, instead of {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}."
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Say which."),
    ] = False,
) -> None:
    """Run programs on sensitive data, sealed and traced, on a Slurm cluster.

    --config, --url and --token-file may also stand after the command. Exit codes: 0 fine, 2 the
    request or the configuration is wrong, 1 anything else, 130 interrupted.
    """
    current = session(context)
    current.config, current.url, current.token_file = config, url, token_file
