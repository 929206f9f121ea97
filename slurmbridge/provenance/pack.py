"""A crate on disk: as a folder, and as a BagIt bag in a ZIP."""

import hashlib
import json
import os
import secrets
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import IO

from slurmbridge.errors import StagingFailed
from slurmbridge.provenance.crate import describe
from slurmbridge.provenance.facts import HashedFile, Provenance, Record, records

METADATA = "ro-crate-metadata.json"
_BLOCK = 1024 * 1024
# The first day that a ZIP can name: the same Process gives the same bytes whenever it is packed.
_DAY = (1980, 1, 1, 0, 0, 0)
_NAMESPACE = uuid.UUID("b5d0a1f2-4f0b-5d39-9c6e-0d6f6f8a7c11")
_ALGORITHMS = ("sha256", "sha512")


def write_crate(provenance: Provenance, files: Mapping[str, Path], target: Path) -> None:
    """Write a crate as the new folder `target`, which appears whole or not.

    `files` says where the outputs and the code lie that are to be copied: their path in the
    Process, as output/table.csv or code/main.py, and the file. Inputs are never copied.

    Raises:
        StagingFailed: `target` exists; a file cannot be read or written, or is not, byte for byte,
            the one that the Process names; the script is not the one that was submitted.
        ValueError: the Process has not ended, or `files` names what it has not, or an input.
    """
    contents = _contents(provenance, files, reviewed=False)
    if target.exists():
        raise StagingFailed(f"{target} exists already")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        partial.mkdir(mode=0o750, parents=True)
        for content in contents:
            place = partial / content.path
            place.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            with place.open("xb") as out:
                _copy(content, out)
        partial.rename(target)
    except OSError as error:
        raise StagingFailed(f"the crate could not be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bag(provenance: Provenance, files: Mapping[str, Path], target_zip: Path) -> None:
    """Write a crate as a ZIP with one BagIt bag, in the layout of Five Safes RO-Crate 0.4.

    The ZIP appears whole or not, in place of an earlier one. It is not compressed: its bytes
    depend on the Process alone, and not on a version of zlib.

    Raises:
        As `write_crate`; an existing ZIP is no error, a folder is.
    """
    contents = _contents(provenance, files, reviewed=True)
    if target_zip.is_dir():
        raise StagingFailed(f"{target_zip} is a folder")
    partial = target_zip.with_name(f".{target_zip.name}.{secrets.token_hex(4)}")
    try:
        target_zip.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "x", allowZip64=True) as archive:
            _fill(archive, provenance, contents)
        partial.rename(target_zip)
    except OSError as error:
        raise StagingFailed(f"the bag could not be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file of the crate: where it comes from, and what it must be."""

    path: str
    size_bytes: int
    sha256: str
    source: bytes | Path


def _contents(
    facts: Provenance, files: Mapping[str, Path], *, reviewed: bool
) -> tuple[_Content, ...]:
    if facts.script is not None and facts.process.script_sha256 is not None:
        digest = hashlib.sha256(facts.script.encode()).hexdigest()
        if digest != facts.process.script_sha256:
            raise StagingFailed("the script is not the one that was submitted")
    known: dict[str, HashedFile] = {file.path: file for file in facts.code}
    known |= {file.path: file for file in facts.process.outputs}
    if unknown := sorted(set(files) - set(known)):
        raise ValueError(f"{unknown[0]} is neither an output nor code of the Process")
    for path in files:
        _check_path(path)
    described = describe(facts, set(files), reviewed=reviewed)
    metadata = json.dumps(described, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    made = [Record(METADATA, metadata.encode(), "", ""), *records(facts)]
    found = [_Content(file.path, file.size_bytes, file.sha256, file.data) for file in made]
    for path, source in sorted(files.items()):
        found.append(_Content(path, known[path].size_bytes, known[path].sha256, source))
    if len({content.path for content in found}) != len(found):
        raise ValueError("an output has the name of a file of the crate")
    return tuple(found)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\0" in path:
        raise ValueError(f"{path!r} is no plain relative path")


def _copy(content: _Content, out: IO[bytes]) -> dict[str, str]:
    """Copy in blocks, and return the digests of what was copied.

    Raises:
        StagingFailed: it is not what it must be.
    """
    digests = {name: hashlib.new(name) for name in _ALGORITHMS}
    left = content.size_bytes
    for block in _blocks(content):
        left -= len(block)
        if left < 0:
            break
        for digest in digests.values():
            digest.update(block)
        out.write(block)
    if left != 0 or digests["sha256"].hexdigest() != content.sha256:
        raise StagingFailed(f"{content.path} is not the file that the Process left: it has changed")
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _blocks(content: _Content) -> Iterator[bytes]:
    if isinstance(content.source, bytes):
        yield content.source
        return
    try:
        descriptor = os.open(content.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StagingFailed(f"{content.path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StagingFailed(f"{content.path} is no plain file")
        while block := file.read(_BLOCK):
            yield block


def _fill(archive: zipfile.ZipFile, facts: Provenance, contents: tuple[_Content, ...]) -> None:
    """The bag: payload, its manifests, and the manifests of what describes it (RFC 8493)."""
    top = facts.process.id
    payload = {f"data/{c.path}": _add(archive, f"{top}/data/{c.path}", c) for c in contents}
    tags = {
        "bagit.txt": "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        "bag-info.txt": _bag_info(facts, contents),
    }
    for name in _ALGORITHMS:
        tags[f"manifest-{name}.txt"] = _manifest(payload, name)
    described = {path: _add_text(archive, top, path, text) for path, text in tags.items()}
    for name in _ALGORITHMS:
        _add_text(archive, top, f"tagmanifest-{name}.txt", _manifest(described, name))


def _add(archive: zipfile.ZipFile, name: str, content: _Content) -> dict[str, str]:
    entry = zipfile.ZipInfo(name, _DAY)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFREG | 0o640) << 16
    entry.file_size = content.size_bytes
    with archive.open(entry, "w", force_zip64=content.size_bytes >= zipfile.ZIP64_LIMIT) as out:
        return _copy(content, out)


def _add_text(archive: zipfile.ZipFile, top: str, path: str, text: str) -> dict[str, str]:
    record = Record(path, text.encode(), "", "")
    content = _Content(path, record.size_bytes, record.sha256, record.data)
    return _add(archive, f"{top}/{path}", content)


def _manifest(digests: Mapping[str, Mapping[str, str]], name: str) -> str:
    return "".join(f"{found[name]}  {_tag_path(path)}\n" for path, found in digests.items())


def _tag_path(path: str) -> str:
    """RFC 8493, 2.1.3: these three characters, and no others, are written in percents."""
    return path.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def _bag_info(facts: Provenance, contents: tuple[_Content, ...]) -> str:
    process = facts.process
    octets = sum(content.size_bytes for content in contents)
    ended = (process.ended_at or process.created_at).astimezone(UTC)
    lines = {
        "Bag-Software-Agent": f"slurmbridge {facts.version}",
        "Bagging-Date": ended.date().isoformat(),
        "External-Description": f"Process {process.id}",
        "External-Identifier": uuid.uuid5(_NAMESPACE, process.id).urn,
        "Payload-Oxum": f"{octets}.{len(contents)}",
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())
