"""All probes, in the order of their modules."""

from . import files, kernel, mounts, network, processes, slurm
from .harness import REGISTRY, Probe

MODULES = (network, files, processes, kernel, mounts, slurm)
PROBES: tuple[Probe, ...] = tuple(REGISTRY)
