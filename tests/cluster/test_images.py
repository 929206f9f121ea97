"""Which images are trusted, with the real Apptainer, real keys and a real queue.

In a site of its own on the bridge, with a small image: what is revoked here stays so.
"""

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.cluster import ROOT, SERVICE_USER, Cluster, Result, until

pytestmark = pytest.mark.cluster

PORT = 8655
# A folder with `env`, `sh` and what they need; its %environment says GREETING.
SANDBOX = """
set -e
mkdir -p "$1/root"/.singularity.d/env
cd "$1/root"
mkdir -p input code output tmp proc dev etc
cp -L --parents $(ldd /usr/bin/env /bin/sh | grep -o '/[^ ]*\\.so[^ ]*' | sort -u) /usr/bin/env .
cp -L --parents /bin/sh .
printf 'export GREETING="%s" LD_LIBRARY_PATH=/opt/lib\\n' "$2" >.singularity.d/env/90-environment.sh
apptainer --quiet build --userns --force "$1/$3" "$1/root"
sha256sum "$1/$3" | cut -d ' ' -f 1
"""
CONFIGURATION = """
database = "sqlite:///{folder}/slurmbridge.db"
contexts = "{folder}/contexts"
images = "{folder}/images"
default_destination = "results:processes"
[stores.results]
folder = "{folder}/results"
read = false
write = true
[api]
port = {port}
[slurm]
poll_seconds = 0.5
[doctor]
# Its jobs would outlive this site, and write where it was.
every_hours = 0
"""


@dataclass
class Site:
    """A site of its own on the bridge."""

    cluster: Cluster
    folder: str

    def call(self, *words: str, **variables: str) -> Result:
        """A command of slurmbridge."""
        given = {"CONFIG": f"{self.folder}/slurmbridge.toml", "URL": f"http://127.0.0.1:{PORT}"}
        pairs = [f"SLURMBRIDGE_{name}={value}" for name, value in (given | variables).items()]
        return self.cluster.run("bridge", "env", *pairs, "slurmbridge", *words)

    def must(self, *words: str, **variables: str) -> str:
        """A command that has to succeed; what it printed."""
        result = self.call(*words, **variables)
        assert result.exit_code == 0, result.stderr or result.stdout
        return result.stdout

    def json(self, *words: str, **variables: str) -> Any:
        return json.loads(self.must(*words, "--json", **variables))

    def image(self, greeting: str) -> tuple[str, str]:
        """A new image file, and its digest."""
        name = f"{greeting}.sif"
        argv = ("bash", "-c", SANDBOX, "bash", self.folder, greeting, name)
        return f"{self.folder}/{name}", self.cluster.must("bridge", *argv).strip()

    def key(self, name: str) -> tuple[str, str]:
        """A new pair of keys: the private and the public file."""
        private, public = f"{self.folder}/{name}.pem", f"{self.folder}/{name}.public.pem"
        self.bash(
            f"openssl genpkey -algorithm ED25519 -out {private} && "
            f"openssl pkey -in {private} -pubout -out {public}"
        )
        return private, public

    def bash(self, script: str) -> str:
        return self.cluster.must("bridge", "bash", "-c", script)

    def left(self) -> list[str]:
        """What lies in the images folder."""
        return self.bash(f"ls -A {self.folder}/images").split()

    @contextmanager
    def up(self) -> Iterator[str]:
        """API and Runner while the block runs; a token."""
        given = f"SLURMBRIDGE_CONFIG={self.folder}/slurmbridge.toml"
        argv = ("env", given, "timeout", "--signal=TERM", "180", "slurmbridge", "up")
        exec_ = [str(ROOT / "ci/cluster"), "exec", "--user", SERVICE_USER, "bridge", "--"]
        daemon = subprocess.Popen(
            [*exec_, "bash", "-c", f'echo $$ >{self.folder}/pid; exec "$@"', "bash", *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.must("config", "migrate")
            token = self.must("tokens", "add", "test").strip()
            until("cluster that is known", lambda: self._knows_the_cluster(token), every=1)
            yield token
        finally:
            self.cluster.run("bridge", "bash", "-c", f"kill $(cat {self.folder}/pid)")
            daemon.wait(30)

    def _knows_the_cluster(self, token: str) -> bool:
        return self.call("capabilities", TOKEN=token).exit_code == 0


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    site = Site(cluster, f"/shared/images/test-{uuid.uuid4().hex[:8]}")
    folder = site.folder
    text = CONFIGURATION.format(folder=folder, port=PORT)
    cluster.write("bridge", f"{folder}/slurmbridge.toml", text.encode())
    site.bash(f"mkdir {folder}/contexts {folder}/images {folder}/results")
    site.must("config", "migrate")
    try:
        yield site
    finally:
        site.bash(f"chmod -R u+w {folder} && rm -rf {folder}")


def add(site: Site, name: str, **variables: str) -> tuple[str, str]:
    """Add a new image of this greeting; its path and its digest."""
    file, digest = site.image(name)
    site.must("images", "add", name, file, "--sha256", digest, **variables)
    return f"{site.folder}/images/{name}-{digest[:16]}.sif", digest


def test_an_image_is_added_by_its_digest_with_the_environment_that_it_gives(site: Site) -> None:
    path, digest = add(site, "hello")
    image = site.json("images", "show", digest[:12])
    assert (image["path"], image["added_by"], image["runs"]) == (path, SERVICE_USER, True)
    assert image["environment"].pop("PATH").startswith("/usr/local/sbin:")
    assert image["environment"] == {"GREETING": "hello", "LANG": "C", "LD_LIBRARY_PATH": "/opt/lib"}
    # What squashfs calls itself lies where the record says that it begins.
    magic = site.bash(f"tail -c +{image['squashfs_offset'] + 1} {path} | head -c 4")
    assert magic == "hsqs"
    assert site.bash(f"stat -c '%a %U' {path}") == f"440 {SERVICE_USER}\n"
    assert site.call("images", "verify", "hello").exit_code == 0


def test_another_file_than_the_one_of_the_digest_leaves_nothing_behind(site: Site) -> None:
    file, _ = site.image("other")
    before = site.left()
    result = site.call("images", "add", "other", file, "--sha256", "0" * 64)
    assert result.exit_code == 1
    assert "not the one that was given" in result.stderr
    assert site.left() == before
    assert site.call("images", "show", "other").exit_code == 2


def test_what_apptainer_does_not_take_for_a_sif_file_is_refused(site: Site) -> None:
    digest = site.bash(f"mksquashfs {site.folder}/root {site.folder}/bare.sqfs -quiet >/dev/null; "
                       f"sha256sum {site.folder}/bare.sqfs").split()[0]  # fmt: skip
    result = site.call("images", "add", "bare", f"{site.folder}/bare.sqfs", "--sha256", digest)
    assert result.exit_code == 1
    assert "not a SIF file with one squashfs" in result.stderr


def test_a_second_file_system_in_the_file_is_refused(site: Site) -> None:
    file, _ = site.image("double")
    site.bash(
        f"mksquashfs {site.folder}/images {site.folder}/more.sqfs -quiet -noappend >/dev/null"
    )
    site.bash(f"apptainer sif add --datatype 4 --partfs 1 --parttype 3 --partarch 2 {file} "
              f"{site.folder}/more.sqfs")  # fmt: skip
    digest = site.bash(f"sha256sum {file}").split()[0]
    result = site.call("images", "add", "double", file, "--sha256", digest)
    assert "not a SIF file with one squashfs" in result.stderr


def test_a_file_that_was_changed_is_found_by_verify(site: Site) -> None:
    path, digest = add(site, "tampered")
    site.bash(f"chmod u+w {path} && printf x | dd of={path} seek=40000 bs=1 conv=notrunc 2>&1")
    result = site.call("images", "verify", "tampered")
    assert result.exit_code == 1
    assert result.stdout == f"tampered {digest[:12]} FAILED: the file is not the recorded one\n"


def test_a_signature_is_required_of_what_is_added(site: Site) -> None:
    private, public = site.key("ours")
    strict = {"IMAGE_TRUST__KEY": public, "IMAGE_TRUST__REQUIRED": "true"}
    file, digest = site.image("signed")
    refused = site.call("images", "add", "signed", file, "--sha256", digest, **strict)
    assert refused.exit_code == 1
    assert "is not signed as required: Failed to verify container" in refused.stderr

    site.bash(f"apptainer sign --key {private} {file}")
    digest = site.bash(f"sha256sum {file}").split()[0]
    site.must("images", "add", "signed", file, "--sha256", digest, **strict)
    assert site.json("images", "show", "signed")["signed"] is True
    line = site.must("images", "verify", "signed", **strict)
    assert line == f"signed {digest[:12]} ok: added by {SERVICE_USER}, signed\n"

    _, theirs = site.key("theirs")
    other = site.call("images", "verify", "signed", **(strict | {"IMAGE_TRUST__KEY": theirs}))
    assert other.exit_code == 1
    assert "FAILED: not signed as required: Failed to verify container" in other.stdout


def test_a_signature_of_a_part_of_the_file_is_none(site: Site) -> None:
    private, public = site.key("partial")
    file, _ = site.image("partly")
    site.bash(f"apptainer sign --key {private} --sif-id 1 {file}")
    digest = site.bash(f"sha256sum {file}").split()[0]
    strict = {"IMAGE_TRUST__KEY": public, "IMAGE_TRUST__REQUIRED": "true"}
    refused = site.call("images", "add", "partly", file, "--sha256", digest, **strict)
    assert "object not signed" in refused.stderr


def test_nothing_new_starts_with_a_revoked_image_nor_what_waits_in_slurm(site: Site) -> None:
    path, digest = add(site, "revoked")
    spec = {"image": "revoked", "command": ["env"], "partition": "parked", "trace": "off",
            "account": "research", "time_limit_minutes": 5}  # fmt: skip
    site.cluster.write("bridge", f"{site.folder}/spec.json", json.dumps(spec).encode())
    with site.up() as token:
        process = site.must("submit", f"{site.folder}/spec.json", TOKEN=token).strip()

        def shown() -> Any:
            return site.json("show", process, TOKEN=token)

        job = until("job", lambda: shown()["job_id"])
        assert site.call("images", "revoke", "revoked", "--reason", "it holds a key").exit_code == 0
        assert site.bash(f"cat {path}.revoked") == "it holds a key\n"
        refused = site.call("submit", f"{site.folder}/spec.json", TOKEN=token)
        assert refused.exit_code == 2
        assert "image: the image 'revoked' was revoked at " in refused.stderr
        assert refused.stderr.endswith(": it holds a key\n")

        site.cluster.must(
            "controller", "scontrol", "update", f"JobId={job}", "Partition=main", user="root"
        )
        ended = until("end", lambda: shown() if shown()["ended_at"] else None, every=1)
    assert ended["state"] == "SYSTEM_ERROR"
    assert ended["reason"] == "the node refused: the image has been revoked"
    again = site.call("images", "revoke", digest, "--reason", "again")
    assert again.exit_code == 0
    assert "was revoked already" in again.stdout
