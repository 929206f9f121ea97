"""The whole bridge in one process, under one clock, with every trouble that a seed can think of.

In the manner of FoundationDB and TigerBeetle: see docs/testing.md.
"""

from slurmbridge.testing.simulation.campaign import Finding, Totals, campaign, run_seed
from slurmbridge.testing.simulation.truth import Violation
from slurmbridge.testing.simulation.weather import Focus, Hot
from slurmbridge.testing.simulation.world import Outcome, Simulator

__all__ = [
    "Finding",
    "Focus",
    "Hot",
    "Outcome",
    "Simulator",
    "Totals",
    "Violation",
    "campaign",
    "run_seed",
]
