"""What a site, or a Process, demands of a traced program: rules, as they stand in TOML."""

from enum import StrEnum, unique
from typing import Literal

from slurmbridge.values import Value


@unique
class Outcome(StrEnum):
    """What a verdict says; the later, the worse."""

    PASS = "pass"  # noqa: S105 (no password)
    ATTENTION = "attention"
    FAIL = "fail"


@unique
class Place(StrEnum):
    """Whose a file is."""

    INPUT = "input"
    CODE = "code"
    REQUIREMENT = "requirement"
    IMAGE = "image"
    OUTPUT = "output"
    TEMPORARY = "temporary"
    # What ordinary programs ask the kernel: devices that hold nothing, processors, memory, their
    # own state. Without it, each program that writes to /dev/null would do the unexpected.
    SYSTEM = "system"
    UNEXPECTED = "unexpected"


class TraceRules(Value):
    """A set of rules."""

    version: Literal[1] = 1
