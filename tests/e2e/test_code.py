"""Code that comes as an archive, or as a commit."""

import gzip
import hashlib
import io
import tarfile
from typing import Any

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster
from tests.support.cluster_stores import ClusterStore

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def packed(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A .tar.gz with these."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            entry.size, entry.mode = len(member[1]), 0o755
            archive.addfile(entry, io.BytesIO(member[1]))
    return gzip.compress(made.getvalue())


def run(client: Client, **code: Any) -> Process:
    wanted = {**SMALL, "command": ["./main.sh"], "code": {"unpack": True, **code}}
    process = client.submit(parse_spec(wanted))
    return client.wait(process.id, timeout_seconds=90, poll_seconds=0.2)


def test_a_program_in_an_archive_on_a_web_server_runs(bridge: Cluster, client: Client) -> None:
    content = packed(
        ("demo-1.0/main.sh", b"#!/bin/sh\ncat data/x; ls -1\n"), ("demo-1.0/data/x", b"x\n")
    )
    ClusterStore(bridge, "dav").put("archives/demo.tar.gz", content)
    digest = hashlib.sha256(content).hexdigest()
    source = {"source": "dav:archives/demo.tar.gz", "sha256": digest}
    process = run(client, path="demo-1.0", **source)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"x\ndata\nmain.sh\n"
    assert {file.path for file in process.inputs} == {"code/main.sh", "code/data/x"}


def test_a_hostile_archive_runs_nothing_and_leaves_nothing(bridge: Cluster, client: Client) -> None:
    link = tarfile.TarInfo("escape")
    link.type, link.linkname = tarfile.SYMTYPE, "/shared"
    content = packed(("main.sh", b"#!/bin/sh\n"), link, ("escape/evil", b"evil"))
    ClusterStore(bridge, "dav").put("archives/hostile.tgz", content)
    process = run(client, source="dav:archives/hostile.tgz")
    assert (process.state, process.job_id) == (ProcessState.EXECUTOR_ERROR, None)
    assert "it holds escape, which is not a plain file" in (process.reason or "")
    assert bridge.run("bridge", "test", "-e", "/shared/evil").exit_code != 0


COMMIT = """
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
bare=/shared/code/mirror/group/project.git work=$(mktemp -d)
rm -rf "$bare"
git init --quiet --bare "$bare"
git init --quiet "$work"
cd "$work"
printf '#!/bin/sh\ncat data\n' >main.sh
chmod +x main.sh
echo first >data
git add --all
git commit --quiet --message=first
git rev-parse HEAD
echo second >data
git commit --quiet --all --message=second
git push --quiet "$bare" HEAD:refs/heads/main
rm -rf "$work"
"""


def test_the_commit_that_is_named_runs_and_no_later_one(bridge: Cluster, client: Client) -> None:
    commit = bridge.must("bridge", "sh", "-c", COMMIT).strip()
    source = {"source": "local:group/project.git", "commit": commit}
    wanted = {**SMALL, "command": ["./main.sh"], "code": source}
    submitted = client.submit(parse_spec(wanted))
    process = client.wait(submitted.id, timeout_seconds=90, poll_seconds=0.2)
    assert process.state is ProcessState.COMPLETE, process.reason
    assert client.log(process.id).data == b"first\n"
    other = client.submit(parse_spec({**wanted, "code": {**source, "commit": "0" * 40}}))
    refused = client.wait(other.id, timeout_seconds=30, poll_seconds=0.2)
    assert refused.state is ProcessState.EXECUTOR_ERROR
    assert "has no commit" in (refused.reason or "")
