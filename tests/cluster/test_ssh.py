"""What only real sshds can show: keys, certificates, jumps, and what login shells say."""

import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slurmbridge.errors import FilesUnavailable, HostKeyRefused, ShellUnavailable
from slurmbridge.shell import Command
from slurmbridge.shell.sftp import SftpFiles
from slurmbridge.shell.ssh import SshShell
from slurmbridge.shell.target import SshTarget
from tests.support.cluster import Cluster
from tests.support.ssh import (
    Login,
    Sshd,
    agent_with,
    answers,
    connected,
    further_user,
    keygen,
    make_key,
    make_login,
    running,
)

pytestmark = pytest.mark.cluster
SECOND_OF_TWO = ("ed25519", "ecdsa")


@pytest.fixture(scope="module")
def login(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Login:
    return make_login(cluster, tmp_path_factory.mktemp("ssh"))


@pytest.fixture(scope="module")
def authority(login: Login) -> Path:
    return make_key(login.folder / "authority")


@pytest.fixture(scope="module")
def sshd(login: Login, authority: Path) -> Iterator[Sshd]:
    """With host keys of two types, one of them certified, and users who are certified."""
    public = authority.with_name("authority.pub").read_text()
    text = "TrustedUserCAKeys FOLDER/authority\nHostCertificate FOLDER/host_ed25519-cert.pub"
    sshd = Sshd(login, text, kinds=SECOND_OF_TWO)
    try:
        sshd.write("authority", public)
        certify_host(sshd, authority, login.address)
        sshd.start()
        yield sshd
    finally:
        sshd.remove()


def certify_host(sshd: Sshd, authority: Path, names: str, *options: str) -> None:
    path = sshd.login.folder / f"host-{secrets.token_hex(4)}.pub"
    path.write_text(sshd.host_key())
    keygen("-q", "-s", str(authority), "-I", "host", "-h", "-n", names, *options, str(path))
    certificate = path.with_name(path.name.replace(".pub", "-cert.pub")).read_text()
    sshd.write("host_ed25519-cert.pub", certificate)


def knowing(sshd: Sshd, *lines: str) -> SshTarget:
    return replace(sshd.target(), known_hosts=sshd.login.known_hosts(*lines))


def refused(target: SshTarget) -> str:
    with pytest.raises(HostKeyRefused) as caught:
        answers(target)
    assert caught.value.never_started
    assert not caught.value.transient
    return str(caught.value)


def sh(script: str, *words: str, timeout_seconds: float = 15, stdin: str = "") -> Command:
    return Command(("/bin/sh", "-c", script, "sh", *words), stdin, timeout_seconds)


# --- host keys ---


def test_an_unknown_host_is_refused_with_its_fingerprint_and_nothing_is_added(sshd: Sshd) -> None:
    target = knowing(sshd)
    said = refused(target)
    assert sshd.fingerprint() in said
    assert f"no key of {sshd.name()} is in {target.known_hosts}" in said
    assert target.known_hosts.read_text() == ""
    [command] = re.findall(r"only then add it: (ssh-keyscan .*)$", said)
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)
    assert sshd.host_key() in target.known_hosts.read_text()
    assert answers(target) == "slurmbridge"


def test_a_known_hosts_file_that_is_missing_is_named(sshd: Sshd, tmp_path: Path) -> None:
    said = refused(replace(sshd.target(), known_hosts=tmp_path / "none"))
    assert f"{tmp_path / 'none'} cannot be read (No such file or directory)" in said
    assert "ssh-keyscan" in said


def test_a_changed_host_key_is_called_that_with_both_fingerprints(
    sshd: Sshd, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other").with_name("other.pub").read_text()
    target = knowing(sshd, f"{sshd.name()} {other}")
    said = refused(target)
    assert "CHANGED" in said
    assert sshd.fingerprint() in said
    assert keygen("-lf", str(tmp_path / "other.pub")).split()[1] in said
    [forget, add] = re.findall(r"says so: (ssh-keygen -R .*), and then (ssh-keyscan.*)$", said)[0]
    for command in (forget, add):
        subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)
    assert answers(target) == "slurmbridge"


def test_a_key_of_another_host_or_port_does_not_count(sshd: Sshd) -> None:
    address = sshd.login.address
    for name in (
        address,
        f"[{address}]:{sshd.port + 1}",
        "other",
        f"[*]:{sshd.port},!{sshd.name()}",
    ):
        refused(knowing(sshd, f"{name} {sshd.host_key()}"))


def test_a_key_is_asked_for_in_the_type_that_is_known(sshd: Sshd) -> None:
    for kind in SECOND_OF_TWO:
        assert answers(knowing(sshd, f"{sshd.name()} {sshd.host_key(kind)}")) == "slurmbridge"
    with running(sshd.login, kinds=("rsa", "ed25519")) as with_rsa:
        target = knowing(with_rsa, f"{with_rsa.name()} {with_rsa.host_key('rsa')}")
        assert answers(target) == "slurmbridge"


def test_names_may_be_hashed_or_patterns(sshd: Sshd) -> None:
    target = sshd.target()
    keygen("-H", "-f", str(target.known_hosts))
    assert sshd.login.address not in target.known_hosts.read_text()
    assert answers(target) == "slurmbridge"
    lines = (
        "# a comment",
        "nonsense",
        "@what * ssh-rsa AAAA",
        f"x,[*]:{sshd.port} {sshd.host_key()} c",
    )
    assert answers(knowing(sshd, *lines)) == "slurmbridge"


def test_a_revoked_key_is_refused_although_it_is_known(sshd: Sshd) -> None:
    known = f"{sshd.name()} {sshd.host_key()}"
    said = refused(knowing(sshd, known, f"@revoked * {sshd.host_key()}"))
    assert "revoked" in said


def test_a_host_may_be_known_by_its_authority(sshd: Sshd, authority: Path) -> None:
    public = authority.with_name("authority.pub").read_text().strip()
    vouched = f"@cert-authority * {public}"
    assert answers(knowing(sshd, vouched)) == "slurmbridge"
    assert "revoked" in refused(knowing(sshd, vouched, f"@revoked * {public}"))
    assert "revoked" in refused(knowing(sshd, vouched, f"@revoked * {sshd.host_key()}"))
    other = make_key(sshd.login.folder / f"ca-{secrets.token_hex(4)}")
    public = other.with_name(f"{other.name}.pub").read_text().strip()
    assert "authority" in refused(knowing(sshd, f"@cert-authority * {public}"))


@pytest.mark.parametrize(
    ("names", "options", "why"),
    [
        ("elsewhere", (), "is for elsewhere"),
        ("ADDRESS", ("-V", "20200101:20200102"), "expired at 2020-01-0"),
        ("ADDRESS", ("-V", "20990101:20990102"), "is not valid before 20"),
    ],
)
def test_a_host_certificate_has_to_fit(
    login: Login, authority: Path, names: str, options: tuple[str, ...], why: str
) -> None:
    public = authority.with_name("authority.pub").read_text().strip()
    sshd = Sshd(login, "HostCertificate FOLDER/host_ed25519-cert.pub")
    try:
        certify_host(sshd, authority, names.replace("ADDRESS", login.address), *options)
        sshd.start()
        assert why in refused(knowing(sshd, f"@cert-authority * {public}"))
    finally:
        sshd.remove()


# --- logging in ---


def certify(key: Path, authority: Path, *options: str, user: str = "slurmbridge") -> Path:
    public = key.with_name(f"{key.name}.pub")
    keygen("-q", "-s", str(authority), "-I", "id", "-n", user, *options, str(public))
    return key.with_name(f"{key.name}-cert.pub")


def not_let_in(target: SshTarget) -> str:
    with pytest.raises(ShellUnavailable) as caught:
        answers(target)
    assert caught.value.never_started
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_lets_in(sshd: Sshd, authority: Path, tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "key", kind)
    target = replace(sshd.target(), key=key)
    assert "refuses the key" in not_let_in(target)
    certificate = certify(key, authority, "-V", "-5m:+5m")
    assert answers(replace(target, certificate=certificate)) == "slurmbridge"


@pytest.mark.parametrize(
    ("valid", "why"),
    [
        ("20200101:20200102", r"expired at 2020-01-0\d \d\d:00:00 UTC"),
        ("20990101:20990102", r"is not valid before 20(98-12-31|99-01-01) \d\d:00:00 UTC"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_told(
    sshd: Sshd, authority: Path, tmp_path: Path, valid: str, why: str
) -> None:
    key = make_key(tmp_path / "key")
    certificate = certify(key, authority, "-V", valid)
    said = not_let_in(replace(sshd.target(), key=key, certificate=certificate))
    assert re.search(f"the certificate {certificate} {why}", said)


def test_a_certificate_for_somebody_else_is_told(
    sshd: Sshd, authority: Path, tmp_path: Path
) -> None:
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    target = replace(sshd.target(), key=key)
    for_bob = certify(key, authority, user="bob")
    assert "refuses the key" in not_let_in(replace(target, certificate=for_bob))
    of_other = certify(other, authority)
    assert "is for the key SHA256:" in not_let_in(replace(target, certificate=of_other))
    (tmp_path / "nonsense").write_text("ssh-ed25519-cert-v01@openssh.com AAAA")
    for path in (tmp_path / "nonsense", tmp_path / "key.pub"):
        assert "certificate" in not_let_in(replace(target, certificate=path))


def test_a_key_file_has_to_be_ones_own(login: Login, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(login.key.read_bytes())
    key.chmod(0o640)
    said = not_let_in(replace(login.target(), key=key))
    assert f"the key {key} can be used by others (mode 0640)" in said
    key.chmod(0o600)
    assert answers(replace(login.target(), key=key)) == "slurmbridge"
    key.write_text("nonsense")
    assert f"{key} holds no private key" in not_let_in(replace(login.target(), key=key))
    assert "No such file" in not_let_in(replace(login.target(), key=tmp_path / "none"))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_with_a_passphrase_belongs_into_an_agent(
    login: Login, tmp_path: Path, kind: str
) -> None:
    key = make_key(tmp_path / "key", kind, "secret")
    said = not_let_in(replace(login.target(), key=key))
    assert "has a passphrase: add it to an agent" in said


def test_the_agent_lets_in(
    sshd: Sshd, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_key(tmp_path / "other")
    target = replace(sshd.target(), key=None, agent=True)
    with agent_with(other, sshd.login.key) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
        assert answers(target) == "slurmbridge"
        certificate = certify(other, authority)
        assert answers(replace(target, certificate=certificate)) == "slurmbridge"
    with agent_with(other) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
        # ssh-add takes the certificate that lies beside a key.
        assert answers(target) == "slurmbridge"
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert "there is no key to show" in not_let_in(target)


def test_an_agent_that_hangs_does_not_hold_up_a_call(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "agent"))
        silent.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        began = time.monotonic()
        target = replace(login.target(), key=None, agent=True)
        with pytest.raises(ShellUnavailable):
            answers(target, timeout_seconds=0.5)
        assert time.monotonic() - began < 1.5


# --- jumps ---


def test_a_host_is_reached_through_another_and_both_are_checked(sshd: Sshd) -> None:
    first = sshd.login.target()
    known = f"[127.0.0.1]:{sshd.port} {sshd.host_key()}"
    inner = replace(
        sshd.target(), host="127.0.0.1", jump=first, known_hosts=sshd.login.known_hosts(known)
    )
    assert answers(inner) == "slurmbridge"
    with connected(inner) as connection:
        files = SftpFiles(connection)
        path = Path(f"/tmp/jump-{secrets.token_hex(4)}")
        files.write(path, bytes(3_000_000))
        assert len(files.read(path, limit=1 << 30)) == 3_000_000
        files.remove_file(path)
    nowhere = sshd.login.known_hosts()
    assert f"[127.0.0.1]:{sshd.port} is in" in refused(replace(inner, known_hosts=nowhere))
    said = refused(replace(inner, jump=replace(first, known_hosts=nowhere)))
    assert f"no key of {first.host} is in" in said
    said = not_let_in(replace(inner, port=1))
    assert f"cannot be reached through {first}" in said


# --- what a login shell does ---

CHATTY = """
echo "Welcome to the cluster"; echo "your quota is 97%" >&2
printf 'no end of line'; printf 'nor here' >&2
fortune() { printf 'never\\0gonna'; }; fortune
set -x
"""


@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/dash"])
def test_a_chatty_login_breaks_nothing(login: Login, shell: str) -> None:
    text = "Subsystem sftp /usr/lib/openssh/sftp-server\nBanner FOLDER/banner\nPrintMotd yes"
    with further_user(login, shell) as user, running(login, text) as sshd:
        sshd.write("banner", "Beware of the leopard\n" * 100)
        write = 'printf "%s" "$2" >"/home/$1/$3"; chown "$1" "/home/$1/$3"'
        for name in (".bashrc", ".profile", ".bash_profile"):
            login.root(write, user, CHATTY, name)
        with connected(replace(sshd.target(), user=user)) as connection:
            run = SshShell(connection).run
            reply = run(sh('cat; echo "$1" >&2', "err", stdin="in"))
            assert (reply.exit_code, reply.stdout, reply.stderr) == (0, "in", "err\n")
            assert run(Command(("id", "-un"))).stdout == f"{user}\n"
            files = SftpFiles(connection)
            files.write(Path(f"/home/{user}/file"), b"content")
            assert files.read(Path(f"/home/{user}/file"), limit=99) == b"content"


@pytest.mark.parametrize("end", ["exit 7", "echo This account is closed; exit 1", "exec true"])
def test_a_login_that_runs_no_commands_is_told_in_its_own_words(login: Login, end: str) -> None:
    with further_user(login, "/bin/bash") as user, running(login) as sshd:
        login.root('printf "%s\\n" "$2" >"/home/$1/.bashrc"', user, end)
        with connected(replace(sshd.target(), user=user)) as connection:
            with pytest.raises(ShellUnavailable, match="could not be begun") as caught:
                SshShell(connection).run(sh("echo no"))
            if "closed" in end:
                assert "This account is closed" in str(caught.value)


def test_an_account_without_sftp_is_told(login: Login) -> None:
    with (
        running(login, "Subsystem sftp /bin/echo no files here") as sshd,
        connected(sshd.target()) as connection,
        pytest.raises(FilesUnavailable, match="what came is not SFTP: no files here"),
    ):
        SftpFiles(connection).look(Path("/tmp"))


def test_words_that_a_shell_may_take_otherwise_are_refused_before_anything_is_sent() -> None:
    target = SshTarget("192.0.2.1", "nobody", Path("/nonexistent"))
    with connected(target) as connection:
        for word in ("it's", "back\\slash", "wow!", "new\nline", "é", "\0", "\x7f"):
            with pytest.raises(ValueError, match="cannot be sent"):
                SshShell(connection).run(Command(("echo", word)))
            with pytest.raises(ValueError, match="cannot be sent"):
                SshShell(connection).run(Command(("id",), environment={"A": word}))
