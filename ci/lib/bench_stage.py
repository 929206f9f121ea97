"""On this host: how fast a Runner stages, beside the tools that people use for it.

    python -m ci.lib.bench_stage large | small [ROUNDS] [SIZE]

`large` is one file of so many MB, against `cp` and `curl`; `small` so many files of 4 KiB, against
`rclone`. They come from a folder, from Apache by WebDAV and from moto by S3, and go to one disk.
What is staged is staged by a process of its own, which has loaded what a Runner has. Prints one
JSON list, an entry for each round.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from slurmbridge.context.copying import Pace, Reading
from slurmbridge.context.folder import Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import parse_spec
from slurmbridge.stores import StoreSettings, open_store
from tests.support import s3, webdav

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"large": 2000, "small": 10_000}
ROUNDS = {"large": 3, "small": 3}
SMALL_BYTES = 4096
IN_A_FOLDER = 100
ROOMY = Bounds(1 << 40, 1_000_000)
NAME = "data"
MB = 1_000_000
# Whether the tool is run; what runs first may have it harder.
ORDERS = ((False, True), (True, False))


@dataclass(frozen=True)
class Way:
    """A source: the store's settings, what else moves it, and with what in the environment."""

    settings: Mapping[str, Any]
    large: tuple[str, ...]
    small: tuple[str, ...]
    environment: Mapping[str, str]


def write_large(folder: Path, megabytes: int) -> None:
    """A file that cannot be compressed."""
    with (folder / "large.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MB))


def write_small(folder: Path, files: int) -> None:
    """Files of 4 KiB, a hundred in each folder."""
    for number in range(files):
        below = folder / "small" / f"{number // IN_A_FOLDER:04}"
        if number % IN_A_FOLDER == 0:
            below.mkdir(parents=True)
        (below / f"{number:06}.csv").write_bytes(os.urandom(SMALL_BYTES))


def folder_way(source: Path) -> Way:
    """A folder of this host."""
    return Way(
        {"kind": "folder", "folder": str(source)},
        ("cp", "--reflink=never", str(source / "large.bin")),
        ("rclone", "copy", str(source / "small")),
        {},
    )


def webdav_way(server: webdav.WebDavServer) -> Way:
    """Apache."""
    obscured = subprocess.run(
        ["rclone", "obscure", webdav.PASSWORD], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    return Way(
        {
            "kind": "webdav", "url": server.url, "user": webdav.USER,
            "password_file": str(server.password_file()),
        },
        ("curl", "-sf", "-u", f"{webdav.USER}:{webdav.PASSWORD}", f"{server.url}large.bin", "-o"),
        ("rclone", "copy", "from:small"),
        {
            "RCLONE_CONFIG_FROM_TYPE": "webdav", "RCLONE_CONFIG_FROM_URL": server.url,
            "RCLONE_CONFIG_FROM_USER": webdav.USER, "RCLONE_CONFIG_FROM_PASS": obscured,
        },
    )  # fmt: skip


@contextmanager
def s3_way(source: Path, keys: Path) -> Iterator[Way]:
    """moto."""
    with s3.serving() as server:
        client = server.client()
        for path in source.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    key = str(path.relative_to(source))
                    client.put_object(Bucket=s3.BUCKET, Key=key, Body=file)
        signed = ("--aws-sigv4", "aws:amz:us-east-1:s3", "-u", f"{s3.KEY}:{s3.SECRET}")
        yield Way(
            {
                "kind": "s3", "bucket": s3.BUCKET, "endpoint": server.url,
                "access_key_file": str(s3.key_file(keys / "key")),
            },
            ("curl", "-sf", *signed, f"{server.url}/{s3.BUCKET}/large.bin", "-o"),
            ("rclone", "copy", f"from:{s3.BUCKET}/small"),
            {
                "RCLONE_CONFIG_FROM_TYPE": "s3", "RCLONE_CONFIG_FROM_PROVIDER": "Other",
                "RCLONE_CONFIG_FROM_ENDPOINT": server.url,
                "RCLONE_CONFIG_FROM_ACCESS_KEY_ID": s3.KEY,
                "RCLONE_CONFIG_FROM_SECRET_ACCESS_KEY": s3.SECRET,
            },
        )  # fmt: skip


def stage(settings: Mapping[str, Any], path: str, root: Path) -> dict[str, float]:
    """Stage a path as a Runner does; the seconds that it took, and the most memory."""
    # What a Runner has loaded.
    import slurmbridge.cli.service
    import slurmbridge.wiring  # noqa: F401

    before = resident_mb()
    made: StoreSettings = TypeAdapter(StoreSettings).validate_python(settings)
    context = Contexts(LocalFiles(), root).of("process")
    context.make(b"", b"", b"")
    wanted = {"image": "python", "command": ["true"], "inputs": [{"source": f"{NAME}:{path}"}]}
    begun = time.perf_counter()
    folders, remote = {}, {}
    if settings["kind"] == "folder":
        folders = {NAME: Path(settings["folder"])}
    else:
        remote = {NAME: Reading(open_store(NAME, made), Pace(made.parallel))}
    copied = context.stage(parse_spec(wanted), Origins(folders, remote), ROOMY)
    took = time.perf_counter() - begun
    return {"s": took, "files": len(copied), "before_mb": before, "most_mb": resident_mb()}


def resident_mb() -> float:
    """The most memory that this process has had at a time."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MB


def ours(way: Way, path: str, root: Path) -> dict[str, float]:
    """What a process of its own needs for it."""
    argv = [sys.executable, "-m", "ci.lib.bench_stage", "stage"]
    argv += [json.dumps(way.settings), path, str(root)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def theirs(way: Way, size: str, root: Path) -> float:
    """The seconds that the tool needs for it."""
    argv = [*getattr(way, size), str(root / "copy")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**kept, "RCLONE_CONFIG": "/dev/null", **way.environment}
    begun = time.perf_counter()
    subprocess.run(argv, check=True, env=environment)
    return time.perf_counter() - begun


def one_round(
    ways: Mapping[str, Way], size: str, root: Path, tools: tuple[bool, bool]
) -> dict[str, float]:
    """Each source by both, one after the other."""
    path = {"large": "large.bin", "small": "small"}[size]
    found: dict[str, float] = {}
    for kind, way in ways.items():
        for tool in tools:
            root.mkdir()
            # What the one before has left to be written would be written now.
            os.sync()
            if tool:
                found[f"{kind}_tool_s"] = theirs(way, size, root)
            else:
                told = ours(way, path, root)
                found[f"{kind}_s"] = told["s"]
                found[f"{kind}_files"] = told["files"]
                found[f"{kind}_before_mb"] = told["before_mb"]
                found[f"{kind}_most_mb"] = told["most_mb"]
            shutil.rmtree(root)
    return found


def measure(size: str, rounds: int, amount: int) -> list[dict[str, float]]:
    """All rounds."""
    with TemporaryDirectory(prefix="stage-") as name, ExitStack() as held:
        base = Path(name)
        server = held.enter_context(webdav.serving())
        source = server.files
        write_large(source, amount) if size == "large" else write_small(source, amount)
        ways = {
            "folder": folder_way(source),
            "webdav": webdav_way(server),
            "s3": held.enter_context(s3_way(source, base)),
        }
        # The first only warms up: memory that a virtual machine has not had yet comes slowly.
        found = [
            one_round(ways, size, base / "target", ORDERS[turn % 2]) for turn in range(rounds + 1)
        ]
        return found[1:]


def main() -> None:
    """See above."""
    if sys.argv[1] == "stage":
        _, _, settings, path, root = sys.argv
        print(json.dumps(stage(json.loads(settings), path, Path(root))))
        return
    size = sys.argv[1]
    numbers = [int(word) for word in sys.argv[2:]]
    rounds = numbers[0] if numbers else ROUNDS[size]
    amount = numbers[1] if len(numbers) > 1 else SIZES[size]
    print(json.dumps(measure(size, rounds, amount)))


if __name__ == "__main__":
    main()
