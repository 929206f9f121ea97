"""Everything durable. The database is the queue: the API writes rows, Runners act on them."""

from slurmbridge.store.claims import UNLIMITED, Limits
from slurmbridge.store.database import Database
from slurmbridge.store.helpers import HelperStore, KeyStore
from slurmbridge.store.logs import LogStore
from slurmbridge.store.moves import Change, Claimed, Open, again
from slurmbridge.store.nodes import Examination, NodeStore
from slurmbridge.store.processes import DEFAULT_CLUSTER, Idempotency, ProcessStore, packed
from slurmbridge.store.records import ImageStore, SiteStore, TokenStore
from slurmbridge.store.roster import Roster, RunnerStatus

__all__ = [
    "DEFAULT_CLUSTER",
    "UNLIMITED",
    "Change",
    "Claimed",
    "Database",
    "Examination",
    "HelperStore",
    "Idempotency",
    "ImageStore",
    "KeyStore",
    "Limits",
    "LogStore",
    "NodeStore",
    "Open",
    "ProcessStore",
    "Roster",
    "RunnerStatus",
    "SiteStore",
    "TokenStore",
    "again",
    "packed",
]
