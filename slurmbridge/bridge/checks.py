"""Whether a specification asks for what this site has. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slurmbridge.bridge.readiness import untraceable
from slurmbridge.container.frameworks import framework
from slurmbridge.errors import InvalidProcess
from slurmbridge.model import ComputeCapability, Image, Partition
from slurmbridge.spec import Contract, ProcessSpec, TraceLevel
from slurmbridge.store import DEFAULT_CLUSTER


@dataclass(frozen=True, slots=True)
class Reviewing:
    """Whose outputs are reviewed, and where they wait."""

    # A Data Store; None: no outputs are reviewed.
    store: str | None = None
    # None: everybody's.
    accounts: frozenset[str] | None = None

    def store_of(self, spec: ProcessSpec) -> str | None:
        """Where the outputs of such a Process wait; None: nowhere."""
        concerned = self.accounts is None or spec.account in self.accounts
        return self.store if concerned else None


NOT_REVIEWED = Reviewing()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of stores and of images."""

    readable_stores: frozenset[str]
    writable_stores: frozenset[str]
    has_default_destination: bool
    signature_required: bool = False
    # The longest trace that is taken, and the least that is recorded.
    trace_mib: int = 4 * 1024
    # What is taken as outputs.
    output_mib: int = 64 * 1024
    output_files: int = 10_000
    trace_minimum: TraceLevel = TraceLevel.OFF
    # Where requirements may come from; nowhere: none are installed.
    requirement_sources: frozenset[str] = frozenset()
    has_default_source: bool = False
    # Places of repositories from which code may come.
    mirrors: frozenset[str] = frozenset()
    # Whether only code runs that was approved: then nothing else may steer what it does.
    approved_only: bool = False
    reviewing: Reviewing = NOT_REVIEWED


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of a site, and which one is meant when none is named."""

    names: tuple[str, ...] = (DEFAULT_CLUSTER,)
    usual: str | None = DEFAULT_CLUSTER
    # Of those that are not for everybody: the accounts whose Processes they run.
    accounts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # Those whose nodes make private networks.
    networked: frozenset[str] = frozenset()

    def chosen(self, name: str | None, account: str | None = None) -> str:
        """The one that is meant by who names it, or by whose Process it is.

        Raises:
            InvalidProcess: there is none such, or it is not for this account.
        """
        if name is None:
            own = [cluster for cluster, whose in self.accounts.items() if account in whose]
            if len(own) == 1:
                return own[0]
            name = self.usual
        known = f"(known: {', '.join(self.names)})"
        if name is None:
            raise _wrong_cluster(f"is required {known}")
        if name not in self.names:
            raise _wrong_cluster(f"there is no cluster {name!r} {known}")
        whose = self.accounts.get(name)
        if whose is not None and account not in whose:
            said = f"the account {account!r}" if account else "a Process that names no account"
            raise _wrong_cluster(f"the cluster {name!r} is not for {said}")
        return name


ONE_CLUSTER = Clusters()


def _wrong_cluster(message: str) -> InvalidProcess:
    return InvalidProcess(f"cluster: {message}", (("cluster", message),))


def check(
    spec: ProcessSpec,
    rules: Rules,
    *,
    images: Mapping[str, Image],
    capability: ComputeCapability | None,
    networked: bool = False,
) -> None:
    """Refuse what cannot run here, with every reason. `images` holds the latest of each name;
    `networked` is whether the cluster's nodes make private networks.

    Without a capability, as before the first report on the cluster, Slurm itself refuses later.

    Raises:
        InvalidProcess
    """
    found = [
        *_image(spec, rules, images),
        *_stores(spec, rules),
        *_trace_asked(spec, rules),
        *_amounts(spec, rules),
        *_requirements(spec, rules),
        *_approved(spec, rules),
        *_parallel(spec, networked=networked),
    ]
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
    if spec.code and not spec.code.commit:
        sources.append(("code.source", spec.code.source))
    if spec.requirements:
        sources.append(("requirements", spec.requirements))
    found = [
        (field, f"there is no readable store {source.partition(':')[0]!r}")
        for field, source in sources
        if source.partition(":")[0] not in rules.readable_stores
    ]
    if spec.code and spec.code.commit:
        mirror = spec.code.source.partition(":")[0]
        if mirror not in rules.mirrors:
            known = ", ".join(sorted(rules.mirrors)) or "none"
            found.append(("code.source", f"there is no mirror {mirror!r} (known: {known})"))
    if spec.outputs:
        store = spec.outputs.destination.partition(":")[0]
        if store not in rules.writable_stores:
            found.append(("outputs.destination", f"there is no writable store {store!r}"))
    elif not rules.has_default_destination:
        found.append(("outputs", "is required: this site has no default destination"))
    return found


def _requirements(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    known, source = rules.requirement_sources, spec.requirements_source
    if source is not None and source not in known:
        there = ", ".join(sorted(known)) or "none"
        return [("requirements_source", f"there is no source {source!r} (known: {there})")]
    if spec.requirements is None:
        return []
    if not known:
        told = "this site installs none: take an image that holds them, or ask its administrator"
        return [("requirements", told)]
    if source is None and not rules.has_default_source:
        there = ", ".join(sorted(known))
        return [("requirements_source", f"is required: there is no usual one (known: {there})")]
    return []


def _approved(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    """What approved code does must be known from it: a command or a variable can make Python run
    an input.
    """
    if not rules.approved_only:
        return []
    found = []
    if spec.contract is not Contract.SANE:
        found.append(("contract", 'this site runs only approved code: has to be "sane"'))
    if spec.environment:
        found.append(("environment", "this site runs only approved code: has to be empty"))
    if spec.requirements is not None:
        told = "this site runs only approved code: has to lie beside the script"
        found.append(("requirements", told))
    return found


def _parallel(spec: ProcessSpec, *, networked: bool) -> list[Finding]:
    if spec.parallel is None:
        return []
    found = []
    if spec.parallel.networked and not networked:
        told = "the nodes of this cluster make no private networks: nothing can run on several"
        found.append(("parallel.nodes", told))
    needed, given = framework(spec), spec.resources.memory_mib
    if needed and given < needed.least_memory_mib:
        least = f"{spec.parallel.kind} needs {needed.least_memory_mib} on each node"
        found.append(("resources.memory_mib", f"{given} is too little: {least}"))
    return found


def _trace_asked(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    found = []
    if _DEPTH[spec.trace] < _DEPTH[rules.trace_minimum]:
        found.append(("trace", f"is {spec.trace}; this site requires {rules.trace_minimum}"))
    if spec.trace is TraceLevel.OFF and spec.trace_rules is not None:
        found.append(("trace_rules", "judge a trace, and trace is off: there will be none"))
    return found


def _amounts(spec: ProcessSpec, rules: Rules) -> list[Finding]:
    asked = (
        ("limits.trace_mib", spec.limits.trace_mib, rules.trace_mib),
        ("limits.output_files", spec.limits.output_files, rules.output_files),
        ("resources.output_mib", spec.resources.output_mib, rules.output_mib),
    )
    return [
        (field, f"{amount} is above the limit of this site ({most})")
        for field, amount, most in asked
        if amount is not None and amount > most
    ]


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
    tasks = spec.parallel.tasks_per_node if spec.parallel else asked.tasks_per_node
    cpus = tasks * asked.cpus_per_task
    if spec.parallel and spec.parallel.nodes > partition.nodes:
        told = f"{spec.parallel.nodes} is more than {partition.name} has ({partition.nodes})"
        found.append(("parallel.nodes", told))
    if cpus > partition.cpus_per_node:
        where = "parallel" if spec.parallel else "resources"
        field = "resources.cpus_per_task" if tasks == 1 else f"{where}.tasks_per_node"
        each = "" if tasks == 1 else f" times {asked.cpus_per_task} cpus"
        count = cpus if tasks == 1 else tasks
        found.append((
            field,
            f"{count}{each} is more than a node of {partition.name} has "
            f"({partition.cpus_per_node})",
        ))  # fmt: skip
    if asked.memory_mib > partition.memory_mib_per_node:
        found.append((
            "resources.memory_mib",
            f"{asked.memory_mib} MiB is more than a node of {partition.name} has "
            f"({partition.memory_mib_per_node} MiB)",
        ))  # fmt: skip
    found += _gres(asked.gres, partition)
    limit = partition.time_limit_minutes
    if limit is not None and spec.time_limit_minutes > limit:
        found.append((
            "time_limit_minutes",
            f"{spec.time_limit_minutes} is above the limit of {partition.name} ({limit})",
        ))  # fmt: skip
    return found


def _gres(asked: str | None, partition: Partition) -> list[Finding]:
    found = []
    for entry in asked.split(",") if asked else ():
        name, kind, count = _parts(entry)
        offered = [
            gres for gres in partition.gres if gres.name == name and kind in {None, gres.kind}
        ]
        if count > sum(gres.count for gres in offered):
            known = ", ".join(str(gres) for gres in partition.gres) or "none"
            told = f"{entry} is more than a node of {partition.name} has (known: {known})"
            found.append(("resources.gres", told))
    return found


def _parts(entry: str) -> tuple[str, str | None, int]:
    name, *rest = entry.split(":")
    count = int(rest.pop()) if rest and rest[-1].isdecimal() else 1
    return name, rest[0] if rest else None, count
