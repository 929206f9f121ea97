"""A host that is reached by ssh, and as whom."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SshTarget:
    """A host, and what is needed to log in there. Nothing is read from ~/.ssh."""

    host: str
    user: str
    # The keys of hosts that are known; nothing is ever added to it.
    known_hosts: Path
    port: int = 22
    # A private key without a passphrase, and what an authority has signed for it.
    key: Path | None = None
    certificate: Path | None = None
    # Whether the agent at SSH_AUTH_SOCK is asked.
    agent: bool = False
    # Through which host the way leads (ProxyJump).
    jump: "SshTarget | None" = None
    # For reaching a host and logging in there, with all jumps.
    connect_seconds: float = 15.0
    # After so long without a sign of life the host is asked for one.
    keepalive_seconds: float = 15.0
    # How many commands and transfers at a time; sshd's MaxSessions is 10 unless it is changed.
    channels: int = 8

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")
