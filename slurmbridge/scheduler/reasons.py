"""Why a job waits, in a sentence. Pure.

Slurm's own list is on its page "Job Reason Codes" (slurm.schedmd.com/job_reason_codes.html).
"""

import re

_SENTENCES: dict[str, str] = {
    "Priority": "other jobs come first",
    "Resources": "it is the next, and waits for nodes, processors or memory to become free",
    "BeginTime": "it may not start before a time that was set for it",
    "Cleaning": "it was requeued, and what is left of its last start is being cleaned up",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "it waits for another job in vain: it will never start, and has to "
    "be canceled",
    "Licenses": "it waits for a license",
    "JobArrayTaskLimit": "too many tasks of its array run already",
    "JobHeldUser": "it is held; `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it; `scontrol release` lets it go",
    "JobHoldMaxRequeue": "it was requeued too often and is held; `scontrol release` lets it go",
    "job_requeued_in_held_state": "it was requeued and is held; `scontrol release` lets it go",
    "launch_failed_requeued_held": "it could not be launched and is held; `scontrol release` lets "
    "it go",
    "NodeDown": "a node that it needs is down",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": (
        "the nodes that it needs are down, drained or reserved"
    ),
    "PartitionDown": "its partition starts no jobs now",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows, or too few are up",
    "PartitionTimeLimit": "its time limit is above that of its partition",
    "Prolog": "its nodes are being prepared",
    "Reservation": "it waits for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted",
    "BadConstraints": "no node has what it asks for",
    "InvalidAccount": "its account is not valid any more",
    "InvalidQOS": "its QOS is not valid any more",
    "AccountNotAllowed": "its account may not use this partition",
    "QOSNotAllowed": "its QOS may not be used in this partition",
    "DeadLine": "its deadline can hardly be met",
    "BurstBufferResources": "it waits for space in a burst buffer",
    "BurstBufferStageIn": "its data is being staged into a burst buffer",
    "FrontEndDown": "no front end node is up",
    "NodeResize": "its nodes are being changed",
    "None": "Slurm has not looked at it yet",
    "MaxMemPerLimit": "it asks for more memory than is allowed",
    "MaxPowerPerLimit": "it needs more power than is allowed",
    "SchedDefer": "Slurm puts off starting jobs",
}
# Slurm makes the names of limits from parts: whose it is, for whom it counts, and of what.
_LIMIT = re.compile(r"(?P<whose>QOS|Assoc)(?P<how>Grp|Max|Min)(?P<what>\w*?)(?P<end>Limit)?$")
_WHOSE = {"QOS": "its QOS", "Assoc": "its account or user"}


def is_limit(reason: str | None) -> bool:
    """Whether a job waits because somebody's share is used up: time resolves it."""
    return reason is not None and _LIMIT.match(reason) is not None


def explain(reason: str | None) -> str | None:
    """A sentence on a pending job's reason; None when Slurm gives none. Never raises."""
    if not reason:
        return None
    known = _SENTENCES.get(reason) or _SENTENCES.get(reason.partition(",")[0].strip())
    if known:
        return f"it waits: {known}"
    if match := _LIMIT.match(reason):
        return f"it waits: a limit of {_WHOSE[match['whose']]} is reached ({reason})"
    return f"it waits, and Slurm says why: {reason}"
