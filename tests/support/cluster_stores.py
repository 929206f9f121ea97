"""The cluster's servers that speak WebDAV and S3, by a hand that does what stores do not do."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slurmbridge.model import Process
from tests.support.cluster import Cluster

_S3 = """
import base64, boto3, sys
client = boto3.client("s3", endpoint_url="http://127.0.0.1:5000", region_name="us-east-1")
path = sys.argv[1]
"""
_PUT = "client.put_object(Bucket='inputs', Key=path, Body=sys.stdin.buffer.read())"
_GET = (
    "print(base64.b64encode(client.get_object(Bucket='outputs', Key=path)['Body'].read()).decode())"
)
_NAMES = """
pages = client.get_paginator("list_objects_v2").paginate(Bucket="outputs", Prefix=path + "/")
for page in pages:
    for entry in page.get("Contents", ()):
        if not entry["Key"].endswith("/"):
            print(entry["Key"].removeprefix(path + "/"))
"""


@dataclass(frozen=True)
class ClusterStore:
    """`kind` is dav or s3: what the bridges call the store that is read; that which is written to
    is called so with "out".
    """

    cluster: Cluster
    kind: str

    def put(self, path: str, content: bytes) -> None:
        """A file that is there."""
        if self.kind == "s3":
            self._s3(_PUT, path, content)
            return
        place = f"/srv/dav/inputs/{path}"
        self._run("sh", "-c", 'mkdir -p "${1%/*}"; cat >"$1"', "sh", place, stdin=content)

    def get(self, path: str) -> bytes:
        """What was carried there."""
        if self.kind == "s3":
            return base64.b64decode(self._s3(_GET, path))
        return base64.b64decode(self._run("base64", f"/srv/dav/outputs/{path}"))

    def names(self, path: str) -> set[str]:
        """The files below a folder that was carried there."""
        if self.kind == "s3":
            return set(self._s3(_NAMES, path).splitlines())
        listing = 'cd "$1" 2>/dev/null && find . -type f -printf "%P\\n" || true'
        return set(self._run("sh", "-c", listing, "sh", f"/srv/dav/outputs/{path}").splitlines())

    @contextmanager
    def answering(self, *faults: str) -> Iterator[None]:
        """While the block lasts, it answers so: METHOD-STATUS, or slow. S3 is behind Apache."""
        files = [f"/run/stores/{fault}" for fault in faults]
        self._run("touch", *files)
        try:
            yield
        finally:
            self._run("rm", "-f", *files)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While the block lasts, it takes connections and says nothing."""
        program = "apache2" if self.kind == "dav" else "moto.server"
        self._run("pkill", "-STOP", "-f", program)
        try:
            yield
        finally:
            self._run("pkill", "-CONT", "-f", program)

    def cut(self) -> None:
        """All connections end at once; it serves new ones a moment later."""
        self._run("pkill", "-KILL", "apache2")

    def _s3(self, act: str, path: str, stdin: bytes = b"") -> str:
        argv = ("/opt/slurmbridge/stores/bin/python", "-c", _S3 + act, path)
        secret = "AWS_SHARED_CREDENTIALS_FILE=/etc/slurmbridge/stores/s3"
        return self._run("env", secret, *argv, stdin=stdin)

    def _run(self, *argv: str, stdin: bytes = b"") -> str:
        return self.cluster.must("stores", *argv, user="root", stdin=stdin)


def is_whole(store: ClusterStore, process: Process) -> None:
    """Everything is there once, is what the manifest says, and is what the Process says."""
    assert process.outputs_location is not None
    place = process.outputs_location.partition(":")[2]
    text = store.get(f"{place}/manifest.json")
    assert hashlib.sha256(text).hexdigest() == process.manifest_sha256
    manifest = json.loads(text)
    assert manifest["process_id"] == process.id
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
        file.path: file.sha256 for file in process.outputs
    }
    for file in process.outputs:
        assert hashlib.sha256(store.get(f"{place}/{file.path}")).hexdigest() == file.sha256
    assert store.names(place) == {file.path for file in process.outputs} | {"manifest.json"}
