"""Commands that stay: the API, a Runner, or both."""

import logging
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, Self

import typer

from slurmbridge.cli import output
from slurmbridge.cli.root import session
from slurmbridge.shell import Daemon

PARTS = ("serve", "runner")
GRACE_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_EXIT_CODE_LIMIT = 125


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, runner, up):
        app.command()(command)


def serve(context: typer.Context) -> None:
    """Serve the API until a signal ends it."""
    # FastAPI is slow to import and no other command needs it.
    from slurmbridge import api

    _log_to_stderr()
    current = session(context)
    settings = current.settings()
    site = current.open_site(settings)
    site.migrate()
    app = api.create_app(site.desk())
    # uvicorn ends in good order and then raises the signal again, for this to end with 0.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    api.run(app, settings.api.host, settings.api.port)


def runner(context: typer.Context) -> None:
    """Work on Processes until a signal ends it. Any number of Runners may run."""
    _log_to_stderr()
    site = session(context).site()
    site.migrate()
    with Signals() as stop:
        site.run_runner(stop)


def up(context: typer.Context) -> None:
    """Run the API and a Runner together; when one ends, so does the other.

    The exit code is 0 after SIGTERM or SIGINT, and not 0 when a part ended by itself.
    """
    current = session(context)
    current.site().migrate()
    environment = dict(os.environ)
    if current.config is not None:
        environment["SLURMBRIDGE_CONFIG"] = str(current.config.absolute())
    running: dict[str, Daemon] = {}
    with Signals() as stop:
        try:
            for part in PARTS:
                argv = (sys.executable, "-m", "slurmbridge.cli", part)
                running[part] = Daemon(argv, environment)
            ended = _first_to_end(running, stop)
        finally:
            for daemon in running.values():
                daemon.stop(grace_seconds=GRACE_SECONDS)
    if ended is not None:
        part, code = ended
        output.fail(f"{part} ended with exit code {code}, so everything was stopped")
        raise typer.Exit(code if 1 <= code <= _EXIT_CODE_LIMIT else 1)


class Signals:
    """Whether SIGTERM or SIGINT has come; asked by calling it."""

    def __init__(self) -> None:
        self._came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Listen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        """As it was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether one has come."""
        return self._came

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True


def _first_to_end(running: dict[str, Daemon], stop: Signals) -> tuple[str, int] | None:
    while not stop():
        for part, daemon in running.items():
            code = daemon.exit_code()
            if code is not None:
                return part, code
        time.sleep(_LOOK_SECONDS)
    return None


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # It tells of every look at the schema, and readiness looks often.
    logging.getLogger("alembic").setLevel(logging.WARNING)
