"""The metadata of a crate: RO-Crate 1.1, profile Process Run Crate 0.5. Pure."""

import base64
import hashlib
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from rocrate.model.contextentity import ContextEntity
from rocrate.model.data_entity import DataEntity
from rocrate.rocrate import ROCrate

from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Attestation, Image
from slurmbridge.provenance.facts import HashedFile, Provenance, of_the_run, records
from slurmbridge.spec import Input

# The base of the profile. RO-Crate 1.2 would be refused by who asks for that.
CRATE_VERSION = "1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_WFRUN = "https://w3id.org/ro/terms/workflow-run#"
# What the profile adds to the terms of RO-Crate 1.1.
_TERMS = (
    "ContainerImage", "containerImage", "environment", "registry", "resourceUsage", "sha256",
)  # fmt: skip
_SHP = "https://w3id.org/shp#"
_STATUS = "http://schema.org/{}ActionStatus"
# A crate says what a name means by itself: a table of the system differs from node to node.
_FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jpg": "image/jpeg",
    ".lock": "text/plain",
    ".log": "text/plain",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".sbatch": "text/x-shellscript",
    ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}
_PRINTED = {
    "stdout.txt": "What the program printed on standard output.",
    "stderr.txt": "What the program printed on standard error.",
}
_NO_LICENCE = (
    "No licence has been given. Who holds the data decides what may be done with this crate and "
    "what is in it."
)

Ref = dict[str, str]


def describe(facts: Provenance, carried: Collection[str], *, reviewed: bool) -> dict[str, Any]:
    """The JSON-LD of a crate, the same for the same facts.

    `carried` are the paths of outputs and code that lie in the crate; what is not among them is
    described without being there, and inputs always are. With `reviewed`, the steps of the Five
    Safes that are known are mentioned too.

    Raises:
        ValueError: the Process has not ended.
    """
    if not facts.process.state.final:
        raise ValueError(f"Process {facts.process.id} has not ended")
    crate = ROCrate(version=CRATE_VERSION)
    crate.metadata.extra_terms.update({name: _WFRUN + name for name in _TERMS})
    writer = _Writer(crate, frozenset(carried))
    run = f"#run-{facts.process.id}"
    mentions = [_run(writer, facts, run)]
    for record in records(facts):
        writer.file(record, name=record.name, description=record.description, about={"@id": run})
    if facts.attestation:
        mentions.append(_attestation(writer, facts.attestation, facts.process.image_sha256, run))
    if reviewed:
        mentions.append(_disclosure(writer, facts))
    _root(writer, facts, mentions)
    generated: dict[str, Any] = crate.metadata.generate()
    return generated


class _Writer:
    """Adds entities, and says how others refer to them."""

    def __init__(self, crate: ROCrate, carried: frozenset[str]) -> None:
        self._crate = crate
        self._carried = carried

    def entity(self, at: str, types: str | list[str], /, **properties: Any) -> Ref:
        known = {"@type": types, **_known(properties)}
        self._crate.add(ContextEntity(self._crate, at, known))
        return {"@id": at}

    def root(self, **properties: Any) -> None:
        for name, value in _known(properties).items():
            self._crate.root_dataset[name] = value

    def file(self, file: HashedFile, *, kind: str = "", **properties: Any) -> Ref:
        """A file that lies in the crate."""
        known = {"@type": ["File", kind] if kind else "File"}
        known |= _content(file) | _known(properties)
        added = self._crate.add_file(dest_path=file.path, properties=known)
        return {"@id": str(added.id)}

    def absent(self, file: HashedFile, *, kind: str = "", **properties: Any) -> Ref:
        """A file that is not in the crate: by RO-Crate 1.1, its identifier is an absolute URI.

        Its content has a name, and nothing leads to it. The path keeps two files of the same
        content apart.
        """
        at = f"{_named(file.sha256)}?path={quote(file.path)}"
        known = {"@type": ["File", kind] if kind else "File", "alternateName": f"/{file.path}"}
        known |= _content(file) | _known(properties)
        self._crate.add(DataEntity(self._crate, at, known))
        return {"@id": at}

    def either(self, file: HashedFile, **properties: Any) -> Ref:
        """A file that is described, and lies in the crate when it is carried."""
        add: Callable[..., Ref] = self.file if file.path in self._carried else self.absent
        return add(file, **properties)

    def value(self, identifier: str, name: str, value: str | int, **properties: Any) -> Ref:
        return self.entity(identifier, "PropertyValue", name=name, value=value, **properties)


def _known(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not known; a list of one is written as the one."""
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in properties.items()
        if value is not None and value != []
    }


def _content(file: HashedFile) -> dict[str, Any]:
    suffix = PurePosixPath(file.path).suffix.lower()
    return {
        "name": PurePosixPath(file.path).name,
        "contentSize": str(file.size_bytes),
        "sha256": file.sha256,
        "encodingFormat": _FORMATS.get(suffix, "application/octet-stream"),
    }


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds") if moment else None


def _root(writer: _Writer, facts: Provenance, mentions: list[Ref]) -> None:
    process = facts.process
    profile = writer.entity(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
    terms = writer.entity("#terms", "CreativeWork", name="Terms of use", description=_NO_LICENCE)
    description = f"Process {process.id}, run sealed by slurmbridge; it ended {process.state}."
    if process.outputs_ignored:
        description += f" Entries of /output that were not carried: {len(process.outputs_ignored)}."
    writer.root(
        name=f"Process {process.id}",
        description=description,
        datePublished=_moment(process.ended_at or process.created_at),
        license=terms,
        conformsTo=[profile],
        mentions=mentions,
    )


def _run(writer: _Writer, facts: Provenance, identifier: str) -> Ref:
    process = facts.process
    completed = process.state is ProcessState.COMPLETE
    inputs = [
        writer.absent(
            file,
            description="An input. Its content is not in this crate.",
            identifier=_place(writer, file, facts.process.spec.inputs),
        )
        for file in facts.inputs
    ]
    return writer.entity(
        identifier,
        "CreateAction",
        name=f"Process {process.id}",
        description=shlex.join(process.spec.command),
        instrument=_program(writer, facts),
        object=inputs,
        result=_results(writer, facts, identifier),
        agent=_submitter(writer, process.submitted_by),
        provider=writer.entity(
            "#bridge",
            # A SoftwareApplication must have a URL and say on whose behalf it checks: not known.
            "Service",
            name="slurmbridge",
            description="Ran the program in a sealed container on a Slurm cluster.",
            version=facts.version,
        ),
        startTime=_moment(process.started_at),
        endTime=_moment(process.ended_at),
        actionStatus=_STATUS.format("Completed" if completed else "Failed"),
        error=None if completed else (process.reason or f"it ended {process.state}"),
        containerImage=_image(writer, facts),
        environment=_values(writer, "environment", process.spec.environment),
        resourceUsage=_values(writer, "usage", facts.accounting, description="As sacct says."),
    )


def _values(writer: _Writer, group: str, values: Mapping[str, str], **properties: Any) -> list[Ref]:
    return [
        writer.entity(
            f"#{group}/{quote(name)}", "PropertyValue", name=name, value=value, **properties
        )
        for name, value in sorted(values.items())
    ]


def _program(writer: _Writer, facts: Provenance) -> Ref:
    """The command: what it runs is fixed by the image and by the code, both by their content."""
    spec = facts.process.spec
    resources = spec.resources
    digest = facts.process.image_sha256
    code = [
        writer.either(
            file,
            kind="SoftwareSourceCode",
            description="Code of the program.",
            version=f"sha256:{file.sha256}",
        )
        for file in facts.code
    ]
    parts = [f"image sha256:{digest}"] if digest else []
    if facts.code:
        parts.append(f"code sha256:{_digest(facts.code)}")
    requirements = {"@id": "requirements.lock"} if facts.requirements is not None else None
    return writer.entity(
        "#program",
        "SoftwareApplication",
        name=PurePosixPath(spec.command[0]).name or spec.command[0],
        description=f"The command {shlex.join(spec.command)} in the image {spec.image}.",
        version=", ".join(parts) or "not known",
        url=_named(digest) if digest else "process.json",
        hasPart=code,
        softwareRequirements=requirements,
        processorRequirements=(
            f"{resources.tasks_per_node} tasks with {resources.cpus_per_task} CPUs each"
            + (f", {resources.gres}" if resources.gres else "")
        ),
        memoryRequirements=f"{resources.memory_mib} MiB",
    )


def _digest(files: Iterable[HashedFile]) -> str:
    """One digest for a folder, over the lines that `sha256sum` would print."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _named(digest: str) -> str:
    """A URI for content that has no place on the web: a Named Information URI (RFC 6920)."""
    text = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
    return f"ni:///sha-256;{text}"


def _image(writer: _Writer, facts: Provenance) -> Ref | None:
    digest = facts.process.image_sha256
    if digest is None:
        return None
    image = facts.image
    return writer.entity(
        f"#image-{digest}",
        ["ContainerImage", "CreativeWork"],
        name=facts.process.spec.image,
        additionalType={"@id": f"{_WFRUN}SIFImage"},
        sha256=digest,
        contentSize=str(image.size_bytes) if image else None,
        dateCreated=_moment(image.built_at) if image else None,
        description=_origin(image) if image else None,
    )


def _origin(image: Image) -> str:
    if image.definition_sha256 is not None:
        return f"Built by the bridge from the definition sha256:{image.definition_sha256}."
    return "Added by an administrator."


def _results(writer: _Writer, facts: Provenance, run: str) -> list[Ref]:
    """What the program made; what the run left beside that is described and not a result."""
    results = []
    beside = of_the_run(facts)
    for file in facts.process.outputs:
        if file.path in beside:
            writer.either(file, description=beside[file.path], about={"@id": run})
        else:
            description = _PRINTED.get(file.path, "What the program left in /output.")
            results.append(writer.either(file, description=description))
    if facts.process.exit_code is not None:
        results.append(writer.value("#exit-code", "exit code", facts.process.exit_code))
    if facts.process.signal is not None:
        results.append(writer.value("#signal", "signal", facts.process.signal))
    return results


def _place(writer: _Writer, file: HashedFile, inputs: Iterable[Input]) -> Ref | None:
    """Where an input lies in its Data Store."""
    name = file.path.removeprefix("input/")
    for entry in inputs:
        if name == entry.name or name.startswith(f"{entry.name}/"):
            place = entry.source + name.removeprefix(entry.name)
            return writer.value(f"#store/{quote(file.path)}", "Data Store location", place)
    return None


def _submitter(writer: _Writer, token: str) -> Ref:
    """A token's name is all that is known: its holder may be a person, or a program of theirs."""
    return writer.entity(
        f"#token-{quote(token)}",
        "Thing",
        name=token,
        description="The holder of the bridge's token of this name.",
    )


def _attestation(writer: _Writer, found: Attestation, image: str | None, run: str) -> Ref:
    """The bridge's own check, of the container and not of the crate."""
    objects = [{"@id": run}]
    if image == found.image_sha256:
        objects.append({"@id": f"#image-{image}"})
    differing = len(found.unexpected) + len(found.missing)
    outcome = "as expected" if found.sealed else f"{differing} facts differ"
    return writer.entity(
        "#attestation",
        "AssessAction",
        additionalType={"@id": f"{_SHP}ValidationCheck"},
        name=f"Check of the sealed container before its program started: {outcome}",
        endTime=_moment(found.attested_at),
        object=objects,
        result={"@id": "attestation.json"},
        instrument=writer.entity(
            "#sbprobe",
            "SoftwareApplication",
            name="sbprobe",
            description="Prints what a container is, as facts.",
            version=f"sha256:{found.sbprobe_sha256}",
            url=_named(found.sbprobe_sha256),
        ),
        agent={"@id": "#bridge"},
        actionStatus=_STATUS.format("Completed" if found.sealed else "Failed"),
    )


def _disclosure(writer: _Writer, facts: Provenance) -> Ref:
    """Nobody has looked at the outputs yet, as far as the bridge knows."""
    return writer.entity(
        f"#disclosure-{facts.process.id}",
        "AssessAction",
        additionalType={"@id": f"{_SHP}DisclosureCheck"},
        name="Disclosure check of the outputs: pending",
        object={"@id": "./"},
        actionStatus=_STATUS.format("Potential"),
    )
