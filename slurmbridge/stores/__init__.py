"""Data Stores: where inputs come from and outputs go to.

What speaks to a kind of store is imported when one is opened (`opening`): botocore and paramiko
take a while to load.
"""

from slurmbridge.stores.guards import ReadOnly, UploadOnly
from slurmbridge.stores.opening import open_store
from slurmbridge.stores.paths import check_path, is_partial, why_unusable
from slurmbridge.stores.settings import StoreSettings
from slurmbridge.stores.store import DataStore, Source, StoreEntry, Target

__all__ = [
    "DataStore",
    "ReadOnly",
    "Source",
    "StoreEntry",
    "StoreSettings",
    "Target",
    "UploadOnly",
    "check_path",
    "is_partial",
    "open_store",
    "why_unusable",
]
