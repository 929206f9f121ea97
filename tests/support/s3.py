"""A real S3 server: moto's, as an own process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import until
from tests.support.webdav import free_port, listens, secret_file

KEY, SECRET, BUCKET = "AKIDEXAMPLE", "a/secret+access/key", "outputs"


@dataclass(frozen=True)
class S3Server:
    """A server with one bucket."""

    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """A hand that does what a store does not do."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )


def key_file(path: Path) -> Path:
    """A secret file with the access key."""
    content = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    return secret_file(path, content)


@contextmanager
def serving() -> Iterator[S3Server]:
    """A server until the end of the block."""
    found = S3Server(free_port())
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(found.port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until("moto", lambda: listens(found.port) or server.poll() is not None, every=0.05)
        assert server.poll() is None, "moto ended at once"
        found.client().create_bucket(Bucket=BUCKET)
        yield found
    finally:
        server.terminate()
        server.wait(10)
