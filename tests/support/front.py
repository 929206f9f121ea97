"""A bridge's front in this process: desk, application, and an HTTP client that reaches it."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, cast

import httpx
from fastapi import FastAPI

from slurmbridge.api import create_app
from slurmbridge.bridge.checks import Rules
from slurmbridge.bridge.desk import Desk
from slurmbridge.client import Client
from slurmbridge.context.results import Results
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import ComputeCapability, Image, Partition
from slurmbridge.store import (
    Change,
    Database,
    HelperStore,
    ImageStore,
    LogStore,
    ProcessStore,
    SiteStore,
)
from tests.support.databases import content_of, fresh_database
from tests.support.specs import HELPERS

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
URL = "http://bridge.test"
SPEC: dict[str, Any] = {"image": "python", "command": ["python3", "-c", "print(1)"]}
CAPABILITY = ComputeCapability(
    cluster="test",
    slurm_version="25.05.1",
    partitions=(
        Partition(
            name="short",
            default=True,
            up=True,
            nodes=2,
            cpus_per_node=4,
            memory_mib_per_node=8000,
            time_limit_minutes=120,
        ),
    ),
    accounts=("research",),
    observed_at=NOW,
)
IMAGE = Image(
    name="python",
    sha256="a" * 64,
    definition_sha256="b" * 64,
    path="/images/python.sif",
    size_bytes=1 << 20,
    squashfs_offset=4096,
    labels={},
    built_at=NOW,
)


class InProcess(httpx.BaseTransport):
    """Hands requests to an application in this process."""

    def __init__(self, app: FastAPI, loop: asyncio.Runner) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.BaseTransport."""
        return self._loop.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        response = await transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


@dataclass
class Front:
    """A desk over an empty database, an application before it, and a known token."""

    database: Database
    desk: Desk
    app: FastAPI
    loop: asyncio.Runner
    token: str

    def http(self, token: str | None = "") -> httpx.Client:
        """A client that speaks with the known token, another, or (None) no token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(transport=InProcess(self.app, self.loop), base_url=URL, headers=headers)

    def client(self, token: str = "") -> Client:
        """The product's own client, with the known token or another."""
        http = httpx.Client(transport=InProcess(self.app, self.loop))
        return Client(URL, token or self.token, http=http)

    def end(
        self, process_id: str, state: ProcessState = ProcessState.COMPLETE, **values: Any
    ) -> None:
        """Let a queued Process have ended."""
        change = Change(
            process_id,
            ProcessState.QUEUED,
            state,
            Phase.ACCEPTED,
            Phase.DONE,
            "test",
            "ended",
            values,
        )
        ProcessStore(self.database).apply([change], runner=None, now=NOW)

    def print(self, process_id: str, data: bytes, *, offset: int = 0) -> None:
        """Let a program have printed."""
        LogStore(self.database).add([(process_id, "stdout", offset, data)])


@cache
def _furnished() -> bytes:
    with closing(fresh_database()) as database:
        ImageStore(database).record(IMAGE)
        HelperStore(database, HELPERS.source_sha256).record(HELPERS)
        SiteStore(database).record_capability(CAPABILITY)
        return content_of(database)


@cache
def _application() -> FastAPI:
    # It works its routes out at the first request of each kind, which takes longer than most tests.
    return create_app(cast(Desk, None))


@contextmanager
def opened(results: Path | None = None) -> Iterator[Front]:
    """A front with one image, one partition and one account; `results` is a store's folder."""
    database = fresh_database(content=_furnished())
    rules = Rules(frozenset({"data"}), frozenset({"results"}), has_default_destination=True)
    numbers = count()
    desk = Desk(
        database,
        rules,
        HelperStore(database, HELPERS.source_sha256),
        Results({"results": results} if results else {}),
        clock=lambda: NOW + timedelta(seconds=next(numbers)),
        new_id=lambda: f"{next(numbers):026}",
    )
    app = _application()
    app.state.desk = desk
    try:
        with asyncio.Runner() as loop:
            yield Front(database, desk, app, loop, desk.add_token("tester"))
    finally:
        database.close()
