"""On the bridge: how fast accepted Processes become jobs, beside loops that only submit.

Jobs go to the partition `parked`, where nothing starts, so that submission alone is measured.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.render import Renderer
from slurmbridge.client import Client
from slurmbridge.container.helpers import source_sha256
from slurmbridge.model import Helpers, Image
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import Settings, load
from slurmbridge.spec import ProcessSpec, parse_spec
from slurmbridge.store import Database, HelperStore, ImageStore, ProcessStore, SiteStore
from slurmbridge.wiring import Site

COUNT = 300
ROUNDS = 5
PORT = 18642
SPEC = {"image": "python", "command": ["true"], "partition": "parked", "time_limit_minutes": 5}

BARE = """
import sys, time, pyslurm
scripts = sys.stdin.read().split("\\0")
from slurmbridge.scheduler.native_child import read_directives
jobs = [(script, read_directives(script)) for script in scripts]
pyslurm.Jobs.load()
begun = time.perf_counter()
for script, attributes in jobs:
    pyslurm.JobSubmitDescription(script=script, **attributes).submit()
print(len(jobs) / (time.perf_counter() - begun))
"""


def bare_pyslurm(scripts: list[str]) -> float:
    """One submission after the other, in one thread, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", BARE], input="\0".join(scripts), check=True, text=True, stdout=-1
    )
    return float(done.stdout)


def bare_sbatch(scripts: list[str]) -> float:
    """One sbatch after the other."""
    begun = time.perf_counter()
    for script in scripts:
        subprocess.run(["sbatch", "--parsable"], input=script, check=True, text=True, stdout=-1)
    return len(scripts) / (time.perf_counter() - begun)


class Bench:
    """A bridge of its own beside the one that runs: another database, other contexts."""

    def __init__(self, folder: Path) -> None:
        settings = load()
        site = Database(settings.database)
        image = ImageStore(site).get("python")
        self.helpers = HelperStore(site, source_sha256()).get()
        contexts = Path(tempfile.mkdtemp(prefix="bench-", dir=settings.contexts))
        # Nobody else needs this controller: what is measured is not the budget.
        free = {"calls_per_second": 10_000, "calls_at_once": 100_000}
        self.contexts = contexts
        self.settings = settings.model_copy(
            update={
                "database": f"sqlite:///{folder}/bench.db",
                "contexts": contexts,
                "slurm": settings.slurm.model_copy(update=free),
            }
        )
        self.site = Site(self.settings)
        self.site.migrate()
        self.database = Database(self.settings.database)
        ImageStore(self.database).record(image)
        HelperStore(self.database, self.helpers.source_sha256).record(self.helpers)
        self.scheduler = self.site.cluster().scheduler()
        SiteStore(self.database).record_capability(self.scheduler.capability())
        self.runner = self.site.cluster().runner(self.scheduler)
        self.runner.standing.enter()
        self.spec = parse_spec(SPEC)
        self.renderer = Renderer(Templates(DEFAULT_TEMPLATES), contexts)
        self.image = image

    def scripts(self, count: int) -> list[str]:
        """Scripts as the bridge itself would submit them."""
        return [_script(self.renderer, self.spec, self.image, self.helpers) for _ in range(count)]

    def bridge(self) -> float:
        """Rows are accepted; from here on until all job ids are stored."""
        ids = [new_ulid() for _ in range(COUNT)]
        store = ProcessStore(self.database)
        store.add([(found, self.spec) for found in ids], by="bench", now=datetime.now(UTC))
        begun = time.perf_counter()
        self.runner.standing.beat()
        while self.runner.verbs.dispatcher.dispatch():
            self.runner.standing.beat()
        seconds = time.perf_counter() - begun
        assert all(store.get(found).job_id for found in ids), "not every Process has a job id"
        return COUNT / seconds

    def http(self, url: str, token: str) -> float:
        """Creates over HTTP by four clients at once, each durable when it is answered."""

        def create() -> None:
            with Client(url, token) as client:
                for _ in range(COUNT // 4):
                    client.submit(self.spec)

        threads = [threading.Thread(target=create) for _ in range(4)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return COUNT // 4 * 4 / (time.perf_counter() - begun)

    def serve(self, config: Path) -> "subprocess.Popen[bytes]":
        """An API on this database."""
        config.write_text(_toml(self.settings))
        argv = [sys.executable, "-m", "slurmbridge.cli", "--config", str(config), "serve"]
        return subprocess.Popen(argv, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """Take everything back."""
        self.scheduler.close()
        subprocess.run(["scancel", "--me", "--partition=parked"], check=True)
        shutil.rmtree(self.contexts)


def _script(renderer: Renderer, spec: ProcessSpec, image: Image, helpers: Helpers) -> str:
    return renderer.render(new_ulid(), spec, image, helpers).text


def _toml(settings: Settings) -> str:
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    values["api"] = {"host": "127.0.0.1", "port": PORT}
    lines = [f"{key} = {json.dumps(v)}" for key, v in values.items() if not isinstance(v, dict)]
    for name, table in values.items():
        if name == "stores":
            for store, inner in table.items():
                lines += [f"[stores.{store}]", *_keys(inner)]
        elif isinstance(table, dict):
            lines += [f"[{name}]", *_keys(table)]
    return "\n".join(lines) + "\n"


def _keys(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def measure(bench: Bench, url: str, token: str) -> dict[str, float]:
    """One round, every arm in it."""
    found = {
        "bare_pyslurm_per_s": bare_pyslurm(bench.scripts(COUNT)),
        "bridge_per_s": bench.bridge(),
        "bare_sbatch_per_s": bare_sbatch(bench.scripts(COUNT // 3)),
    }
    found["http_creates_per_s"] = bench.http(url, token)
    while bench.runner.verbs.dispatcher.dispatch():
        pass
    subprocess.run(["scancel", "--me", "--partition=parked"], check=True)
    return found


def main() -> None:
    """Rounds, one after the other; the first one only warms up."""
    with tempfile.TemporaryDirectory(dir="/var/lib/slurmbridge") as folder:
        bench = Bench(Path(folder))
        server = bench.serve(Path(folder) / "bench.toml")
        url, token = f"http://127.0.0.1:{PORT}", bench.site.desk().add_token("bench")
        try:
            with Client(url, token) as client:
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline and not _alive(client):
                    time.sleep(0.2)
            runs = [measure(bench, url, token) for _ in range(ROUNDS + 1)][1:]
        finally:
            server.terminate()
            server.wait()
            bench.close()
    print(json.dumps(runs))


def _alive(client: Client) -> bool:
    from slurmbridge.errors import SlurmBridgeError

    try:
        client.page(limit=1)
    except SlurmBridgeError:
        return False
    return True


if __name__ == "__main__":
    main()
