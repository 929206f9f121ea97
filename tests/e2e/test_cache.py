"""Inputs that many Processes need are copied to the cluster once, and nobody can write to them."""

import os
import secrets
from hashlib import sha256

import pytest

from slurmbridge.client import Client
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.spec import parse_spec
from tests.conftest import SMALL
from tests.support.cluster import Cluster
from tests.support.cluster_stores import ClusterStore

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
SIZE = 8 << 20
CACHED = f"staged 1 files, {SIZE} bytes, {SIZE} of them from the cache"
# How many names the file has, its content, and what comes of writing to it.
PROGRAM = """
import hashlib, os
print(os.stat("/input/shared").st_nlink)
print(hashlib.sha256(open("/input/shared", "rb").read()).hexdigest())
for act in (lambda: open("/input/shared", "r+b"), lambda: os.chmod("/input/shared", 0o777),
            lambda: os.truncate("/input/shared", 0), lambda: os.unlink("/input/shared")):
    try:
        act()
        print("done")
    except OSError as error:
        print(error.strerror)
"""
REFUSED = ["Read-only file system"] * 4


def submit(client: Client, source: str) -> str:
    command = ["python3", "-c", PROGRAM]
    inputs = [{"source": source, "target": "shared"}]
    return client.submit(parse_spec({**SMALL, "command": command, "inputs": inputs})).id


def ended(client: Client, process_id: str) -> Process:
    process = client.wait(process_id, timeout_seconds=120, poll_seconds=0.2)
    assert process.state is ProcessState.COMPLETE, process.reason
    return process


def said(client: Client, process_id: str) -> list[str]:
    return client.log(process_id).data.decode().splitlines()


def from_cache(client: Client, process_id: str) -> bool:
    return CACHED in [event.detail for event in client.events(process_id)]


def test_an_input_is_copied_once_and_shared_unharmed(bridge: Cluster, client: Client) -> None:
    content, path = os.urandom(SIZE), f"shared/{secrets.token_hex(8)}"
    store = ClusterStore(bridge, "dav")
    store.put(path, content)
    first = submit(client, f"dav:{path}")
    ended(client, first)
    later = [submit(client, f"dav:{path}") for _ in range(6)]
    for one in later:
        process = ended(client, one)
        assert [file.sha256 for file in process.inputs] == [sha256(content).hexdigest()]
    assert [from_cache(client, one) for one in (first, *later)] == [False, *[True] * 6]
    for one in (first, *later):
        names, digest, *refused = said(client, one)
        assert int(names) >= 2
        assert (digest, refused) == (sha256(content).hexdigest(), REFUSED)


def test_what_changes_in_the_store_is_copied_anew(bridge: Cluster, client: Client) -> None:
    path = f"shared/{secrets.token_hex(8)}"
    store = ClusterStore(bridge, "s3")
    for content in (os.urandom(SIZE), os.urandom(SIZE)):
        store.put(path, content)
        one = submit(client, f"s3:{path}")
        ended(client, one)
        assert said(client, one)[1] == sha256(content).hexdigest()
        assert not from_cache(client, one)


def test_more_than_fits_goes_through_the_cache(bridge: Cluster, client: Client) -> None:
    """Twelve files of 8 MiB, of which eight fit."""
    folder = secrets.token_hex(8)
    store = ClusterStore(bridge, "dav")
    digests = {}
    for number in range(12):
        content = os.urandom(SIZE)
        store.put(f"shared/{folder}/{number}", content)
        digests[number] = sha256(content).hexdigest()
    begun = {number: submit(client, f"dav:shared/{folder}/{number}") for number in digests}
    for number, one in begun.items():
        ended(client, one)
        assert said(client, one)[1] == digests[number]
    again = submit(client, f"dav:shared/{folder}/11")
    ended(client, again)
    assert said(client, again)[1] == digests[11]
