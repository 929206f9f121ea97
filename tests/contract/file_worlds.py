"""The hosts whose files keep one contract, each with a hand that does what Files do not do."""

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slurmbridge.shell import Files, LocalFiles
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.sftp import SftpFiles
from tests.support.cluster import Cluster
from tests.support.ssh import make_login


@dataclass(frozen=True)
class Host:
    """Files, and a hand on the same host that does what Files do not do."""

    files: Files
    root: Path
    by_hand: Callable[..., str]


def _by_hand(script: str, *words: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def local_host(folder: Path) -> Host:
    """This host."""
    return Host(LocalFiles(), folder, _by_hand)


@contextmanager
def login_host(cluster: Cluster, folder: Path) -> Iterator[Host]:
    """The cluster's login node, over SFTP. `folder` is on this host, for keys."""
    connection = SshConnection(make_login(cluster, folder).target())
    files = SftpFiles(connection)
    root = Path(f"/tmp/files-{secrets.token_hex(6)}")

    def by_hand(script: str, *words: str) -> str:
        return cluster.must("login", "sh", "-c", script, "sh", *words)

    files.make_folder(root, mode=0o755)
    yield Host(files, root, by_hand)
    by_hand('chmod -R u+rwx "$1"; rm -rf "$1"', str(root))
    files.close()
    connection.close()
