"""What a traced program did: strace's text in, events out. Pure, and in constant memory."""

from slurmbridge.trace.follow import Begin, Counts, Follower

__all__ = ["Begin", "Counts", "Follower"]
