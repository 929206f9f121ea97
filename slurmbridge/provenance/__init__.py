"""What was run, on what, and what came of it: an RO-Crate of a finished Process."""

from slurmbridge.provenance.facts import Provenance
from slurmbridge.provenance.pack import write_bag, write_crate

__all__ = ["Provenance", "write_bag", "write_crate"]
