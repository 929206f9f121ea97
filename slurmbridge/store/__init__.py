"""Everything durable. The database is the queue: the API writes rows, Runners act on them."""

from slurmbridge.store.claims import UNLIMITED, Limits
from slurmbridge.store.contexts import ContextLedger
from slurmbridge.store.database import Database
from slurmbridge.store.helpers import HelperStore, KeyStore
from slurmbridge.store.installations import Installation, InstallationStore
from slurmbridge.store.logs import LogStore
from slurmbridge.store.moves import Change, Claimed, Open, Wanted, again
from slurmbridge.store.nodes import Examination, NodeStore
from slurmbridge.store.processes import DEFAULT_CLUSTER, Idempotency, ProcessStore, packed
from slurmbridge.store.records import ImageStore, SiteStore, TokenStore
from slurmbridge.store.reviews import ReviewLedger
from slurmbridge.store.roster import Roster, RunnerStatus
from slurmbridge.store.tables import InstallationState

__all__ = [
    "DEFAULT_CLUSTER",
    "UNLIMITED",
    "Change",
    "Claimed",
    "ContextLedger",
    "Database",
    "Examination",
    "HelperStore",
    "Idempotency",
    "ImageStore",
    "Installation",
    "InstallationState",
    "InstallationStore",
    "KeyStore",
    "Limits",
    "LogStore",
    "NodeStore",
    "Open",
    "ProcessStore",
    "ReviewLedger",
    "Roster",
    "RunnerStatus",
    "SiteStore",
    "TokenStore",
    "Wanted",
    "again",
    "packed",
]
