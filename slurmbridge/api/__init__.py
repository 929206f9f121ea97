"""The HTTP API. The only home of FastAPI and uvicorn."""

import uvicorn
from fastapi import FastAPI

from slurmbridge import __version__
from slurmbridge.api import health, problems, routes
from slurmbridge.bridge.desk import Desk

__all__ = ["create_app", "run"]

_GRACE_SECONDS = 5


def create_app(desk: Desk) -> FastAPI:
    """The application in front of a desk."""
    app = FastAPI(
        title="slurmbridge",
        summary="Runs programs on sensitive data, sealed and traced, on a Slurm cluster.",
        version=__version__,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.desk = desk
    problems.register(app)
    app.include_router(health.router)
    app.include_router(routes.router)
    return app


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        workers=1,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
