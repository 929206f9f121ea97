"""The commands that people type. The only home of Typer and Rich."""

from slurmbridge.cli import images, local, node, outputs, remote, service
from slurmbridge.cli.root import app

__all__ = ["app", "main"]

remote.register(app)
images.register(app)
local.register(app)
outputs.register(app)
node.register(app)
service.register(app)


def main() -> None:
    """What `slurmbridge` runs."""
    app()
