"""Reading a small file of a Data Store, such as a list of requirements."""

from collections.abc import Callable, Mapping
from pathlib import Path

from slurmbridge.context.copying import Reading
from slurmbridge.context.tree import Below, Spot, Tree
from slurmbridge.errors import InvalidProcess, NotThere, StagingFailed, StoreForbids
from slurmbridge.shell import Kind, LocalFiles, NotPlain

Read = Callable[[str], bytes]
_HERE = LocalFiles()


def read_small(
    location: str, folders: Mapping[str, Path], remote: Mapping[str, Reading], *, limit: int
) -> bytes:
    """The file at `store:path`; `remote` are the stores that are no folders of this host.

    Raises:
        NotThere
        InvalidProcess: it is no plain file, or has more than `limit` bytes.
        StagingFailed: it could not be read.
    """
    store, _, path = location.partition(":")
    try:
        spot = Spot(_tree(store, folders, remote), path)
        entry = spot.look()
        if entry.kind is not Kind.FILE:
            raise InvalidProcess(f"{location} is not a file")
        content = _content(spot, limit)
    except (FileNotFoundError, NotADirectoryError):
        raise NotThere(f"{location} does not exist") from None
    except (NotPlain, StoreForbids) as error:
        raise InvalidProcess(f"{location} cannot be read: {error}") from None
    except PermissionError:
        raise InvalidProcess(f"{location} cannot be read by the bridge") from None
    except OSError as error:
        raise StagingFailed(f"{location} could not be read: {error.strerror}") from error
    if len(content) > limit:
        raise InvalidProcess(f"{location} has more than the {limit} bytes that are taken")
    return content


def _tree(store: str, folders: Mapping[str, Path], remote: Mapping[str, Reading]) -> Tree:
    if store in remote:
        return remote[store].tree
    if store not in folders or not folders[store].is_dir():
        # An administrator mends it, and what waited for it then runs.
        raise StagingFailed(f"the folder of the store {store} is missing")
    return Below(_HERE, folders[store])


def _content(spot: Spot, limit: int) -> bytes:
    """No more than a byte beyond the limit."""
    content = bytearray()
    with spot.tree.open(spot.path) as file:
        while len(content) <= limit and (data := file.read(limit + 1 - len(content))):
            content += data
    return bytes(content)
