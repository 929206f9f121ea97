"""What the frameworks need that the bridge starts in the pods of a Process. Pure.

To add one: a value in `ParallelKind`, a row here, and a part of the templates: docs/parallel.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slurmbridge.spec import ParallelKind, ProcessSpec


@dataclass(frozen=True, slots=True)
class Framework:
    """How the memory of a node is shared out. Sizes in MiB.

    `service_mib` of each node is for what the framework itself runs there. Of the rest the program
    in the first pod gets `program_share`, and the workers of a node what is left: on all nodes the
    same.
    """

    service_mib: int
    program_share: float
    # Below it, the framework does not start.
    least_memory_mib: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the memory of a node, in MiB."""

    program: int
    workers: int


FRAMEWORKS: Mapping[ParallelKind, Framework] = {
    # A JVM for the worker, on the first node one for the master. Spark refuses heaps below 450 MiB.
    ParallelKind.SPARK: Framework(512, 3 / 8, 2560),
    ParallelKind.DASK: Framework(256, 1 / 4, 768),
    # Its raylet and agents take some 700 MiB on each node.
    ParallelKind.RAY: Framework(1024, 1 / 4, 2048),
}


def framework(spec: ProcessSpec) -> Framework | None:
    """That of a Process, or None where the program starts its own tasks."""
    return FRAMEWORKS.get(spec.parallel.kind) if spec.parallel else None


def shares(spec: ProcessSpec) -> Shares:
    """How the memory of a node is shared out; all of it is the program's without a framework."""
    memory = spec.resources.memory_mib
    found = framework(spec)
    if found is None:
        return Shares(memory, memory)
    rest = max(memory - found.service_mib, 1)
    program = int(rest * found.program_share)
    return Shares(program, rest - program)
