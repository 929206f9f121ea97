"""Whether a specification asks for what this site has. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from slurmbridge.bridge.readiness import untraceable
from slurmbridge.errors import InvalidProcess
from slurmbridge.model import ComputeCapability, Image, Partition, ProcessSpec, TraceLevel


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of stores and of images."""

    readable_stores: frozenset[str]
    writable_stores: frozenset[str]
    has_default_destination: bool
    signature_required: bool = False
    # The longest trace that is taken, and the least that is recorded.
    trace_mib: int = 4 * 1024
    trace_minimum: TraceLevel = TraceLevel.OFF


def check(
    spec: ProcessSpec,
    rules: Rules,
    *,
    images: Mapping[str, Image],
    capability: ComputeCapability | None,
) -> None:
    """Refuse what cannot run here, with every reason. `images` holds the latest of each name.

    Without a capability, as before the first report on the cluster, Slurm itself refuses later.

    Raises:
        InvalidProcess
    """
    found = [*_image(spec, rules, images), *_stores(spec, rules), *_trace_asked(spec, rules)]
    if capability is not None:
        found += _account(spec, capability)
        found += _partition(spec, capability)
    if found:
        text = "; ".join(f"{location}: {message}" for location, message in found)
        raise InvalidProcess(text, tuple(found))


Finding = tuple[str, str]
_DEPTH: Mapping[TraceLevel, int] = {
    TraceLevel.OFF: 0,
    TraceLevel.AUDIT: 1,
    TraceLevel.FULL: 2,
}


def untrusted(image: Image, *, signature_required: bool) -> str | None:
    """Why nothing may start with this image; None when it may."""
    if image.revoked_at is not None:
        when = image.revoked_at.isoformat(" ", "seconds")
        return f"the image {image.name!r} was revoked at {when}: {image.revoked_reason}"
    # What was built here from a definition is trusted by its origin.
    if signature_required and not image.signed and image.definition_sha256 is None:
        return f"the image {image.name!r} is not signed, as this site requires"
    return None


def _image(spec: ProcessSpec, rules: Rules, images: Mapping[str, Image]) -> list[Finding]:
    if image := images.get(spec.image):
        problem = untrusted(image, signature_required=rules.signature_required)
        return [("image", problem)] if problem else []
    known = ", ".join(sorted(images)) or "none"
    return [("image", f"no image {spec.image!r} is recorded (recorded: {known})")]


def _stores(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    sources = [(f"inputs.{n}.source", entry.source) for n, entry in enumerate(spec.inputs)]
    if spec.code:
        sources.append(("code.source", spec.code.source))
    found = [
        (field, f"there is no readable store {source.partition(':')[0]!r}")
        for field, source in sources
        if source.partition(":")[0] not in rules.readable_stores
    ]
    if spec.outputs:
        store = spec.outputs.destination.partition(":")[0]
        if store not in rules.writable_stores:
            found.append(("outputs.destination", f"there is no writable store {store!r}"))
    elif not rules.has_default_destination:
        found.append(("outputs", "is required: this site has no default destination"))
    return found


def _trace_asked(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    found = []
    if _DEPTH[spec.trace] < _DEPTH[rules.trace_minimum]:
        found.append(("trace", f"is {spec.trace}; this site requires {rules.trace_minimum}"))
    if spec.trace is TraceLevel.OFF and spec.trace_rules is not None:
        found.append(("trace_rules", "judge a trace, and trace is off: there will be none"))
    mib = spec.limits.trace_mib
    if mib is not None and mib > rules.trace_mib:
        found.append(
            ("limits.trace_mib", f"{mib} is above the limit of this site ({rules.trace_mib})")
        )
    return found


def _account(spec: ProcessSpec, capability: ComputeCapability) -> list[Finding]:
    if spec.account is None or spec.account in capability.accounts:
        return []
    known = ", ".join(capability.accounts) or "none"
    return [("account", f"there is no account {spec.account!r} for this bridge (known: {known})")]


def _partition(spec: ProcessSpec, capability: ComputeCapability) -> list[Finding]:
    for refused in capability.refused:
        if refused.name == spec.partition or (spec.partition is None and refused.default):
            return [("partition", f"{refused.name} is not offered: {refused.reason}")]
    partition = capability.partition(spec.partition)
    if partition is None:
        known = ", ".join(entry.name for entry in capability.partitions)
        if spec.partition is None:
            return [("partition", f"is required: the cluster has no default (known: {known})")]
        return [("partition", f"there is no partition {spec.partition!r} (known: {known})")]
    return [*_sizes(spec, partition), *_trace(spec, partition, capability)]


def _trace(spec: ProcessSpec, partition: Partition, capability: ComputeCapability) -> list[Finding]:
    if spec.trace is TraceLevel.OFF:
        return []
    problem = untraceable(capability, partition)
    return [("trace", f"is not possible in {partition.name}: {problem}")] if problem else []


def _sizes(spec: ProcessSpec, partition: Partition) -> list[Finding]:
    found = []
    asked = spec.resources
    cpus = asked.tasks_per_node * asked.cpus_per_task
    if cpus > partition.cpus_per_node:
        field = "cpus_per_task" if asked.tasks_per_node == 1 else "tasks_per_node"
        each = "" if asked.tasks_per_node == 1 else f" times {asked.cpus_per_task} cpus"
        count = cpus if asked.tasks_per_node == 1 else asked.tasks_per_node
        found.append((
            f"resources.{field}",
            f"{count}{each} is more than a node of {partition.name} has "
            f"({partition.cpus_per_node})",
        ))  # fmt: skip
    if asked.memory_mib > partition.memory_mib_per_node:
        found.append((
            "resources.memory_mib",
            f"{asked.memory_mib} MiB is more than a node of {partition.name} has "
            f"({partition.memory_mib_per_node} MiB)",
        ))  # fmt: skip
    limit = partition.time_limit_minutes
    if limit is not None and spec.time_limit_minutes > limit:
        found.append((
            "time_limit_minutes",
            f"{spec.time_limit_minutes} is above the limit of {partition.name} ({limit})",
        ))  # fmt: skip
    return found
