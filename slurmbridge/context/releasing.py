"""Carrying on what was carried before: from where outputs wait to where they were meant to go."""

import hashlib
import json
from collections.abc import Callable

from slurmbridge.context.carrying import MANIFEST, Carried, Place, write_small
from slurmbridge.context.copying import carry_tree
from slurmbridge.context.tree import Bounds, Copied, Spot, TooMuch
from slurmbridge.errors import StagingFailed, StoreForbids
from slurmbridge.shell import NotPlain

_MANIFEST_BYTES = 256 * 1024 * 1024


def carry_on(
    source: Spot, place: Place, manifest_sha256: str, may_go_on: Callable[[], bool]
) -> Carried:
    """Copy what a manifest names, and nothing else, to a new place; the manifest last.

    `manifest_sha256` is that of the manifest that was reviewed. `may_go_on` is asked just before
    the place is published.

    Raises:
        StagingFailed: also when what lies there is not what was reviewed.
    """
    published = False
    try:
        text = _manifest(source, manifest_sha256)
        named = {file["path"]: file for file in json.loads(text)["files"]}
        size = sum(file["size_bytes"] for file in named.values())
        sink = place.begin()
        copied, ignored = carry_tree(
            source,
            sink,
            Bounds(size, len(named) + 1),
            pace=place.pace,
            wanted=lambda path: None if path in named else "not in the manifest",
        )
        found = {file.path: file.sha256 for file in copied}
        if found != {path: file["sha256"] for path, file in named.items()}:
            raise StagingFailed("what waits there is not what was reviewed")
        if others := [str(entry) for entry in ignored if entry.path != MANIFEST]:
            raise StagingFailed(f"something else lies among what was reviewed: {others[0]}")
        if not may_go_on():
            raise StagingFailed("another Runner carries the outputs")
        write_small(sink, MANIFEST, text, place.pace)
        place.publish()
        published = True
    except (NotPlain, TooMuch) as error:
        raise StagingFailed(f"what waits there is not what was reviewed: {error}") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise StagingFailed(f"outputs could not be released: {why}") from error
    except StoreForbids as error:
        raise StagingFailed(f"outputs cannot be released: {error}") from error
    finally:
        if not published:
            place.abandon()
    files = tuple(Copied(file.path, file.size_bytes, file.sha256) for file in copied)
    return Carried(files, (), None, place.location, manifest_sha256)


def _manifest(source: Spot, sha256: str) -> bytes:
    text = bytearray()
    with source.tree.open(source.below(MANIFEST).path) as file:
        while piece := file.read(1 << 20):
            text += piece
            if len(text) > _MANIFEST_BYTES:
                raise StagingFailed("the manifest is too large")
    if hashlib.sha256(text).hexdigest() != sha256:
        raise StagingFailed("what waits there is not what was reviewed: its manifest is another")
    return bytes(text)
