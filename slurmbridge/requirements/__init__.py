"""What a Process needs beside its code: read, installed once by a job, and kept as an image."""

from slurmbridge.requirements.key import FORMAT, key
from slurmbridge.requirements.outcome import (
    FILES,
    IMAGE_FILE,
    MADE,
    Installed,
    NotInstalled,
    read_outcome,
)
from slurmbridge.requirements.said import Fault
from slurmbridge.requirements.step import (
    Index,
    Step,
    StepLimits,
    Wheelhouse,
    job_name,
)
from slurmbridge.requirements.text import BYTES_LIMIT, Requirements, read_requirements

__all__ = [
    "BYTES_LIMIT",
    "FILES",
    "FORMAT",
    "IMAGE_FILE",
    "MADE",
    "Fault",
    "Index",
    "Installed",
    "NotInstalled",
    "Requirements",
    "Step",
    "StepLimits",
    "Wheelhouse",
    "job_name",
    "key",
    "read_outcome",
    "read_requirements",
]
