"""For tests: a Slurm and files in memory, and the whole bridge under a seeded clock.

Shipped, for the tests of backends that use slurmbridge; nothing of the product imports it.
"""

from slurmbridge.testing.files import MemoryFiles
from slurmbridge.testing.scheduler import FakeJob, FakeScheduler, hand_clock

__all__ = ["FakeJob", "FakeScheduler", "MemoryFiles", "hand_clock"]
