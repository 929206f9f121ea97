"""What a Process needs beside its code: read, installed once by a job, and kept as an image."""

from slurmbridge.requirements.key import FORMAT, key
from slurmbridge.requirements.outcome import (
    Installed,
    Locked,
    NotInstalled,
    read_outcome,
)
from slurmbridge.requirements.said import Fault
from slurmbridge.requirements.step import (
    Index,
    Step,
    StepLimits,
    Wheelhouse,
)
from slurmbridge.requirements.text import Requirements, read_requirements

__all__ = [
    "FORMAT",
    "Fault",
    "Index",
    "Installed",
    "Locked",
    "NotInstalled",
    "Requirements",
    "Step",
    "StepLimits",
    "Wheelhouse",
    "key",
    "read_outcome",
    "read_requirements",
]
