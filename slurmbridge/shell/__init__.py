"""Commands and files on a host: this one, or another by ssh.

The only home of subprocess (`local`, `child`) and of paramiko. What goes by ssh is not imported
here, as loading paramiko takes a while: see `target`, `connection`, `ssh` and `sftp`.
"""

from slurmbridge.shell.child import Daemon, LineChild
from slurmbridge.shell.commands import CLEAN_ENVIRONMENT, Command, Reply, Shell
from slurmbridge.shell.files import Entry, Files, Kind, NotPlain
from slurmbridge.shell.local import LocalShell
from slurmbridge.shell.local_files import LocalFiles

__all__ = [
    "CLEAN_ENVIRONMENT",
    "Command",
    "Daemon",
    "Entry",
    "Files",
    "Kind",
    "LineChild",
    "LocalFiles",
    "LocalShell",
    "NotPlain",
    "Reply",
    "Shell",
]
