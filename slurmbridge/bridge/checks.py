"""Whether a specification asks for what this site has. Pure."""

from collections.abc import Set
from dataclasses import dataclass

from slurmbridge.errors import InvalidProcess
from slurmbridge.model import ComputeCapability, Partition, ProcessSpec


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of stores."""

    readable_stores: frozenset[str]
    writable_stores: frozenset[str]
    has_default_destination: bool


def check(
    spec: ProcessSpec,
    rules: Rules,
    *,
    images: Set[str],
    capability: ComputeCapability | None,
) -> None:
    """Refuse what cannot run here, with every reason.

    Without a capability, as before the first report on the cluster, Slurm itself refuses later.

    Raises:
        InvalidProcess
    """
    found = [*_image(spec, images), *_stores(spec, rules)]
    if capability is not None:
        found += _account(spec, capability)
        found += _partition(spec, capability)
    if found:
        text = "; ".join(f"{location}: {message}" for location, message in found)
        raise InvalidProcess(text, tuple(found))


Finding = tuple[str, str]


def _image(spec: ProcessSpec, images: Set[str]) -> list[Finding]:
    if spec.image in images:
        return []
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


def _account(spec: ProcessSpec, capability: ComputeCapability) -> list[Finding]:
    if spec.account is None or spec.account in capability.accounts:
        return []
    known = ", ".join(capability.accounts) or "none"
    return [("account", f"there is no account {spec.account!r} for this bridge (known: {known})")]


def _partition(spec: ProcessSpec, capability: ComputeCapability) -> list[Finding]:
    partition = capability.partition(spec.partition)
    if partition is None:
        known = ", ".join(entry.name for entry in capability.partitions)
        if spec.partition is None:
            return [("partition", f"is required: the cluster has no default (known: {known})")]
        return [("partition", f"there is no partition {spec.partition!r} (known: {known})")]
    return _sizes(spec, partition)


def _sizes(spec: ProcessSpec, partition: Partition) -> list[Finding]:
    found = []
    asked = spec.resources
    if asked.cpus_per_task > partition.cpus_per_node:
        found.append((
            "resources.cpus_per_task",
            f"{asked.cpus_per_task} is more than a node of {partition.name} has "
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
