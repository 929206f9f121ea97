"""Everything durable. The database is the queue: the API writes rows, Runners act on them."""

from slurmbridge.store.database import Database
from slurmbridge.store.helpers import HelperStore, KeyStore
from slurmbridge.store.logs import LogStore
from slurmbridge.store.nodes import Examination, NodeStore
from slurmbridge.store.processes import Change, Claimed, Open, ProcessStore, again, packed
from slurmbridge.store.records import ImageStore, RunnerStatus, SiteStore, TokenStore

__all__ = [
    "Change",
    "Claimed",
    "Database",
    "Examination",
    "HelperStore",
    "ImageStore",
    "KeyStore",
    "LogStore",
    "NodeStore",
    "Open",
    "ProcessStore",
    "RunnerStatus",
    "SiteStore",
    "TokenStore",
    "again",
    "packed",
]
