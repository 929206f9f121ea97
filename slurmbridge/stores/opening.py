"""From settings to a store."""

from slurmbridge.stores.folder import FolderStore
from slurmbridge.stores.guards import ReadOnly, UploadOnly
from slurmbridge.stores.settings import (
    FolderSettings,
    S3Settings,
    SftpSettings,
    StoreSection,
    WebDavSettings,
)
from slurmbridge.stores.store import DataStore


def open_store(name: str, settings: StoreSection) -> DataStore:
    """A store that does what its settings allow. Nothing is connected before it is needed.

    Raises:
        ConfigurationError: a secret file cannot be used.
    """
    store = _open(name, settings)
    if not settings.write:
        return ReadOnly(store)
    return store if settings.read else UploadOnly(store)


def _open(name: str, settings: StoreSection) -> DataStore:
    match settings:
        case FolderSettings():
            return FolderStore(name, settings.folder)
        case WebDavSettings():
            from slurmbridge.stores.webdav import open_webdav

            return open_webdav(name, settings)
        case S3Settings():
            from slurmbridge.stores.s3 import open_s3

            return open_s3(name, settings)
        case SftpSettings():
            from slurmbridge.stores.sftp import open_sftp

            return open_sftp(name, settings)
    raise AssertionError(f"no kind of store: {type(settings).__name__}")
