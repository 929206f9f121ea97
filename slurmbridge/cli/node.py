"""Commands for sysadmins, on a compute node: its part of private networks."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from slurmbridge.cli import output
from slurmbridge.cli.local import build_helpers
from slurmbridge.cli.root import group

PARTS = Path(__file__).parent.parent / "node/network"
INSTALLED = Path("/usr/libexec/slurmbridge/sbnetwork")
Root = Annotated[
    Path,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="What stands for /, for making packages.",
    ),
]
_HERE = Path("/")


class _Act(StrEnum):
    INSTALL = "install"
    UNINSTALL = "uninstall"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group(
        app,
        "node",
        "What runs on compute nodes.",
        build=build_helpers,
        install=install,
        check=check,
        uninstall=uninstall,
        parts=parts,
    )


def install(root: Root = _HERE) -> None:
    """Compile the plugin for this node's Slurm, and install it and the scripts.

    Needs root, a C compiler and Slurm's headers. A configuration that is there is kept.
    """
    _run(_argv(_Act.INSTALL, root))


def check() -> None:
    """Say what is wrong with this node; exit code 1 when something is. Needs root."""
    if not INSTALLED.exists():
        output.fail(f"{INSTALLED} does not exist; run: slurmbridge node install")
        raise typer.Exit(1)
    _run([str(INSTALLED), "check"])


def uninstall(root: Root = _HERE) -> None:
    """Remove all but the configuration. Refused while networks are there or slurm.conf names it."""
    _run(_argv(_Act.UNINSTALL, root))


def parts() -> None:
    """Say where the scripts and the plugin's source lie, for reading them before."""
    for path in sorted(PARTS.iterdir()):
        typer.echo(path)


def _argv(act: _Act, root: Path) -> list[str]:
    where = [] if root == _HERE else ["--root", str(root.absolute())]
    # A wheel may have lost the right to execute it.
    return ["/bin/bash", str(PARTS / "install"), *where, act.value]


def _run(argv: list[str]) -> NoReturn:
    """In place of this program: its words are the answer, and so is its exit code."""
    os.execv(argv[0], argv)  # noqa: S606 - there is nothing here for a shell
