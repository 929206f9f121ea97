"""How a cluster is reached: commands and files, here or by ssh."""

import getpass
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmbridge.clock import Clock
from slurmbridge.errors import ConfigurationError
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.commands import CommandScheduler
from slurmbridge.scheduler.manners import Breaker, Bucket, Budget, Patience, PoliteScheduler
from slurmbridge.scheduler.native import NativeScheduler, native_is_usable
from slurmbridge.sections import ClusterSettings, SshSettings, Transport
from slurmbridge.shell import Files, LocalFiles, LocalShell, Shell

if TYPE_CHECKING:
    from slurmbridge.shell.target import SshTarget

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reach:
    """Commands and files of one cluster. The files of a shared folder are this host's."""

    shell: Shell
    files: Files
    transport: Transport
    # Ends the connection, where there is one.
    close: Callable[[], None]

    def scheduler(self, cluster: ClusterSettings, clock: Clock) -> PoliteScheduler:
        """The way to Slurm that the configuration asks for.

        Raises:
            ConfigurationError: pyslurm is asked for and cannot be used.
        """
        slurm = cluster.slurm
        budget = Budget(slurm.calls_per_second, slurm.calls_at_once)
        return PoliteScheduler(
            self._bare(slurm.timeout_seconds),
            Bucket(budget, clock.monotonic),
            Breaker(Patience(), clock.monotonic),
            clock=clock,
        )

    def _bare(self, timeout_seconds: float) -> Scheduler:
        if self.transport in {Transport.COMMANDS, Transport.SSH}:
            name = "ssh" if self.transport is Transport.SSH else "commands"
            return CommandScheduler(self.shell, timeout_seconds=timeout_seconds, name=name)
        problem = native_is_usable()
        if problem is None:
            return NativeScheduler(self.shell, timeout_seconds=timeout_seconds)
        if self.transport is Transport.PYSLURM:
            raise ConfigurationError(f"slurm.transport is pyslurm, but {problem}")
        log.info("Slurm's own programs are used: %s", problem)
        return CommandScheduler(self.shell, timeout_seconds=timeout_seconds)


def reach(cluster: ClusterSettings) -> Reach:
    """How a cluster is reached, with one connection for everything that goes by ssh."""
    if cluster.ssh is None:
        return Reach(LocalShell(), LocalFiles(), cluster.slurm.transport, lambda: None)
    # Loading paramiko takes a while, and few need it.
    from slurmbridge.shell.connection import SshConnection
    from slurmbridge.shell.sftp import SftpFiles
    from slurmbridge.shell.ssh import SshShell

    connection = SshConnection(_target(cluster.ssh))
    by_ssh = cluster.slurm.transport is Transport.SSH
    return Reach(
        SshShell(connection) if by_ssh else LocalShell(),
        SftpFiles(connection, answer_seconds=cluster.slurm.timeout_seconds)
        if cluster.remote_files
        else LocalFiles(),
        cluster.slurm.transport,
        connection.close,
    )


def _target(ssh: SshSettings) -> "SshTarget":
    """The login node, behind the hosts on the way."""
    from slurmbridge.shell.target import SshTarget

    behind: SshTarget | None = None
    for hop in (*ssh.jumps, ssh):
        behind = SshTarget(
            host=hop.host,
            user=hop.user or getpass.getuser(),
            known_hosts=hop.known_hosts,
            port=hop.port,
            key=hop.key,
            certificate=hop.certificate,
            agent=hop.agent,
            jump=behind,
            connect_seconds=ssh.connect_seconds,
            keepalive_seconds=ssh.keepalive_seconds,
            channels=ssh.channels,
        )
    assert behind is not None
    return behind
