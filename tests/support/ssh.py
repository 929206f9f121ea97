"""The login node by ssh, and further sshds beside its own, each with a configuration of its own."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurmbridge.shell import Command
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.ssh import SshShell
from slurmbridge.shell.target import SshTarget
from tests.support.cluster import Cluster, until

CLUSTER_KEYS = "/etc/ssh/cluster"


def keygen(*words: str, stdin: str = "") -> str:
    """Run ssh-keygen on this host."""
    program = shutil.which("ssh-keygen")
    assert program, "ssh-keygen is missing"
    done = subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair."""
    keygen("-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path))
    return path


@dataclass
class Login:
    """The login node: where it is, and with what one logs in."""

    cluster: Cluster
    folder: Path
    address: str
    key: Path
    host_key: str

    def known_hosts(self, *lines: str) -> Path:
        """A file with these lines."""
        path = self.folder / f"known_hosts.{secrets.token_hex(4)}"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def target(self) -> SshTarget:
        """The cluster's own sshd."""
        known = self.known_hosts(f"{self.address} {self.host_key}")
        return SshTarget(self.address, "slurmbridge", known, key=self.key)

    def root(self, script: str, *words: str) -> str:
        """Run a script as root on the login node."""
        return self.cluster.must("login", "sh", "-c", script, "sh", *words, user="root")


@dataclass
class Sshd:
    """One more sshd on the login node. It ends with all of its sessions."""

    login: Login
    configuration: str
    port: int = field(default_factory=lambda: 20_000 + secrets.randbelow(10_000))
    kinds: tuple[str, ...] = ("ed25519",)

    def __post_init__(self) -> None:
        self.folder = f"/tmp/sshd-{self.port}"
        make = (
            'umask 077; mkdir "$0"; for kind in "$@"; '
            'do ssh-keygen -q -t "$kind" -N "" -f "$0/host_$kind"; done'
        )
        self.login.cluster.must("login", "sh", "-c", make, self.folder, *self.kinds, user="root")
        keys = "".join(f"HostKey {self.folder}/host_{kind}\n" for kind in self.kinds)
        common = (
            f"Port {self.port}\n{keys}PidFile {self.folder}/pid\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
            # Who was refused before would have to wait.
            "PerSourcePenalties no\n"
        )
        authorized = f"AuthorizedKeysFile {CLUSTER_KEYS}/authorized/slurmbridge\n"
        defaults = f"{authorized}Subsystem sftp internal-sftp\n"
        # Of what is said twice, sshd takes the first.
        text = common + self.configuration.replace("FOLDER", self.folder) + "\n" + defaults
        self.write("config", text)

    def write(self, name: str, content: str) -> None:
        """A file in its folder."""
        self.login.cluster.must(
            "login", "sh", "-c", 'cat >"$0"', f"{self.folder}/{name}",
            user="root", stdin=content.encode(),
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.login.root('/usr/sbin/sshd -f "$1/config" -E "$1/log"', self.folder)
        until(
            "pid of sshd", lambda: self.login.root('cat "$1/pid" || true', self.folder), every=0.02
        )

    def signal(self, name: str, *, sessions: bool = True) -> None:
        """Send a signal to it, and to its sessions with all that runs in them."""
        script = """
            of() { for child in $(pgrep -P "$1"); do echo "$child"; of "$child"; done; }
            pid=$(cat "$1/pid")
            kill -s "$2" "$pid" $([ "$3" = no ] || of "$pid") || true
        """
        self.login.root(script, self.folder, name, "yes" if sessions else "no")

    def log(self) -> str:
        """What it has written."""
        return self.login.root('cat "$1/log"', self.folder)

    def host_key(self, kind: str = "ed25519") -> str:
        """A public key of its own, as in known_hosts."""
        return self.login.root('cut -d " " -f 1,2 "$1"', f"{self.folder}/host_{kind}.pub").strip()

    def fingerprint(self, kind: str = "ed25519") -> str:
        """As its administrator would say it."""
        told = self.login.root('ssh-keygen -lf "$1"', f"{self.folder}/host_{kind}.pub")
        return told.split()[1]

    def name(self) -> str:
        """As known_hosts has it."""
        return f"[{self.login.address}]:{self.port}"

    def target(self) -> SshTarget:
        """It, with its key known."""
        known = self.login.known_hosts(f"{self.name()} {self.host_key()}")
        return replace(self.login.target(), port=self.port, known_hosts=known)

    def remove(self) -> None:
        """End it, and leave nothing."""
        script = 'kill -s KILL "$(cat "$1/pid")" 2>/dev/null; rm -rf "$1"'
        self.signal("KILL")
        self.login.root(script, self.folder)


@contextmanager
def running(login: Login, configuration: str = "", **changes: object) -> Iterator[Sshd]:
    """An sshd with a configuration of its own; FOLDER stands for its folder."""
    sshd = Sshd(login, configuration, **changes)  # type: ignore[arg-type]
    try:
        sshd.start()
        yield sshd
    finally:
        sshd.remove()


@contextmanager
def connected(target: SshTarget) -> Iterator[SshConnection]:
    """A connection that is closed in the end."""
    connection = SshConnection(target)
    try:
        yield connection
    finally:
        connection.close()


def answers(target: SshTarget, *, timeout_seconds: float = 15) -> str:
    """Log in once, and say who one is there."""
    with connected(target) as connection:
        command = Command(("id", "-un"), timeout_seconds=timeout_seconds)
        return SshShell(connection).run(command).stdout.strip()


@contextmanager
def further_user(login: Login, shell: str) -> Iterator[str]:
    """A user with a login shell of its own, and a home."""
    name = f"t{secrets.token_hex(4)}"
    login.root('useradd --create-home --shell "$2" --password "*" "$1"', name, shell)
    try:
        yield name
    finally:
        login.root('pkill -KILL -u "$1"; userdel --remove "$1" 2>/dev/null || true', name)


@contextmanager
def further_address(sshd: Sshd) -> Iterator[tuple[SshTarget, "Way"]]:
    """An sshd at one more address, which can be taken away: packets then go nowhere."""
    head = sshd.login.address.rsplit(".", 2)[0]
    address = f"{head}.{200 + secrets.randbelow(50)}.{1 + secrets.randbelow(250)}"
    way = Way(sshd.login, address)
    way.open()
    try:
        known = sshd.login.known_hosts(f"[{address}]:{sshd.port} {sshd.host_key()}")
        yield replace(sshd.target(), host=address, known_hosts=known), way
    finally:
        way.block()


@dataclass
class Way:
    """The way to an address."""

    login: Login
    address: str

    def open(self) -> None:
        """Packets arrive."""
        self.login.root('ip address add "$1/16" dev eth0', self.address)

    def block(self) -> None:
        """Packets are dropped, and nobody is told."""
        self.login.root('ip address del "$1/16" dev eth0 || true', self.address)


@contextmanager
def agent_with(*keys: Path) -> Iterator[str]:
    """An ssh agent that holds keys; its socket."""
    program, add = shutil.which("ssh-agent"), shutil.which("ssh-add")
    assert program
    assert add
    socket = Path(f"/tmp/agent-{secrets.token_hex(4)}")
    agent = subprocess.Popen([program, "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        until("agent", socket.exists, every=0.01)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        for key in keys:
            subprocess.run([add, "-q", str(key)], env=environment, check=True, capture_output=True)
        yield str(socket)
    finally:
        agent.terminate()
        agent.wait()
        socket.unlink(missing_ok=True)


def make_login(cluster: Cluster, folder: Path) -> Login:
    """What is needed to reach the login node by ssh."""
    docker = shutil.which("docker")
    assert docker, "the docker client is missing"
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    shown = subprocess.run(
        [docker, "inspect", "-f", form, "slurmbridge-login-1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = folder / "bridge_ed25519"
    key.touch(mode=0o600)
    key.write_text(cluster.must("login", "cat", f"{CLUSTER_KEYS}/bridge_ed25519", user="root"))
    host_key = cluster.must(
        "login", "cut", "-d", " ", "-f", "1,2", f"{CLUSTER_KEYS}/host_ed25519.pub", user="root"
    )
    return Login(cluster, folder, shown.stdout.strip(), key, host_key.strip())
