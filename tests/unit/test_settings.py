"""The configuration: every key is checked, and it is told where each value comes from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmbridge.errors import ConfigurationError
from slurmbridge.requirements import Index, StepLimits, Wheelhouse
from slurmbridge.sections import Transport
from slurmbridge.settings import SYSTEM_FILE, Settings, config_file, load, origins

MINIMAL = """
contexts = "/shared/contexts"
images = "/shared/images"
[stores.data]
folder = "/shared/data"
[stores.results]
folder = "/shared/results"
read = false
write = true
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "slurmbridge.toml"
        path.write_text(text)
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_must_be_said_is_enough(write: Write) -> None:
    settings = load(write(MINIMAL))
    assert settings.contexts == Path("/shared/contexts")
    assert (settings.stores["data"].read, settings.stores["data"].write) == (True, False)
    assert settings.slurm.transport is Transport.AUTO
    assert settings.api.host == "127.0.0.1"


@pytest.mark.parametrize("key", ["images", "stores"])
def test_what_must_be_said_and_is_not_is_named(key: str, write: Write) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(key)]
    text = "\n".join(lines) if key != "stores" else "\n".join(MINIMAL.splitlines()[:3])
    assert f"{key}: Field required" in refused(write(text))


CLUSTERS = (
    MINIMAL.replace('contexts = "/shared/contexts"\n', "")
    + """
[clusters.near]
contexts = "/shared/contexts"
[clusters.far]
contexts = "/scratch/contexts"
images = "/scratch/images"
slurm.transport = "ssh"
ssh.host = "login.far.example"
ssh.known_hosts = "/etc/slurmbridge/known_hosts"
"""
)


def test_without_contexts_or_clusters_there_is_nothing_to_run_on(write: Write) -> None:
    assert "contexts: is missing" in refused(write(MINIMAL.replace("contexts =", "# ")))


def test_one_cluster_is_called_default_and_meant(write: Write) -> None:
    settings = load(write(MINIMAL))
    assert list(settings.by_cluster) == ["default"]
    assert settings.usual_cluster == "default"


def test_of_several_clusters_none_is_meant_unless_it_is_said(write: Write) -> None:
    settings = load(write(CLUSTERS))
    assert list(settings.by_cluster) == ["near", "far"]
    assert settings.usual_cluster is None
    assert not settings.by_cluster["near"].remote_files
    assert settings.by_cluster["far"].remote_files
    said = load(write('default_cluster = "far"\n' + CLUSTERS))
    assert said.usual_cluster == "far"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('contexts = "/a"\n' + CLUSTERS, "contexts stand below clusters.NAME"),
        (CLUSTERS + "[slurm]\npoll_seconds = 1", "slurm stand below clusters.NAME"),
        ('default_cluster = "x"\n' + CLUSTERS, "default_cluster names no cluster: 'x'"),
        (CLUSTERS.replace('ssh.host = "login.far.example"\n', ""), "clusters.far.ssh.host"),
        (CLUSTERS.replace('images = "/scratch/images"\n', ""), "need `images`"),
        (CLUSTERS.replace('slurm.transport = "ssh"\n', ""), 'slurm.transport is not "ssh"'),
        (CLUSTERS + '[clusters.b]\ncontexts = "/b"\nfiles = "sftp"', "needs a table `ssh`"),
        (CLUSTERS.replace("clusters.far", "clusters.FAR"), "clusters.FAR"),
        (CLUSTERS.replace("login.far.example", "-oProxyCommand=x"), "clusters.far.ssh.host"),
    ],
)
def test_what_of_clusters_cannot_be_meant_is_refused(text: str, part: str, write: Write) -> None:
    assert part in refused(write(text))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[slurm]\nwalltime = 1", "slurm.walltime"),
        ("[stores.more]\nfolder = '/a'\nmode = 'rw'", "stores.more.mode"),
        ("[apii]\nport = 1", "apii"),
    ],
)
def test_a_key_that_is_not_known_is_named(text: str, key: str, write: Write) -> None:
    assert f"{key}: Extra inputs are not permitted" in refused(write(MINIMAL + text))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[slurm]\npoll_seconds = 'often'", "slurm.poll_seconds"),
        ("[slurm]\npoll_seconds = 0", "slurm.poll_seconds"),
        ("[slurm]\npoll_seconds = 1e9", "slurm.poll_seconds"),
        ("[slurm]\ntransport = 'ssh'", "slurm.transport"),
        ("[api]\nport = 70000", "api.port"),
        ("[runner]\nbatch = 0", "runner.batch"),
        ("[runner]\nlease_seconds = 1.9", "runner.lease_seconds"),
        ("[limits]\noutput_files = -1", "limits.output_files"),
        ("[limits]\nlog_file_mib = 0", "limits.log_file_mib"),
        ("[image_trust]\nrequired = true", "image_trust: "),
        ("[image_trust]\nkey = 'key.pem'", "image_trust.key"),
        ("[stores.UPPER]\nfolder = '/a'", "stores.UPPER"),
        ("[stores.'a:b']\nfolder = '/a'", "stores.a:b"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_key(
    text: str, key: str, write: Write
) -> None:
    assert key in refused(write(MINIMAL + text))


QUARANTINE = "[stores.quarantine]\nfolder = '/q'\nread = false\nwrite = false\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (QUARANTINE, "stores.quarantine: neither read nor write is set"),
        ("[review]\nstore = 'none'", "names no store that is a folder: 'none'"),
        (
            QUARANTINE.replace("read = false", "read = true") + "[review]\nstore = 'quarantine'",
            "needs read = false and write = false",
        ),
        ("[review]\naccounts = ['research']", "review.accounts needs review.store"),
        (QUARANTINE + "[review]\nstore = 'quarantine'\naccounts = []", "review.accounts"),
    ],
)
def test_a_review_that_others_could_get_around_is_refused(
    text: str, said: str, write: Write
) -> None:
    assert said in refused(write(MINIMAL + text))


def test_outputs_wait_where_nobody_reads_or_writes(write: Write) -> None:
    settings = load(write(MINIMAL + QUARANTINE + "[review]\nstore = 'quarantine'"))
    assert settings.review.store == "quarantine"


@pytest.mark.parametrize(
    "folder",
    ["/with space", "relative", "", "/a,b", "/a\\nb", "/a'b", "/a$b", "/ü", "/", "/a/-rf", "/%u"],
)
def test_a_folder_that_cannot_stand_on_a_directive_line_is_refused(
    folder: str, write: Write
) -> None:
    for key in ("contexts", "images"):
        text = MINIMAL.replace(f'{key} = "/shared/{key}"', f'{key} = "{folder}"')
        assert f"{key}: " in refused(write(text))
    text = MINIMAL.replace('"/shared/data"', f'"{folder}"')
    assert "stores.data.folder: " in refused(write(text))


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    message = refused(write(MINIMAL + "[slurm]\nx = 1\n[api]\nport = 0\n"))
    assert "slurm.x" in message
    assert "api.port" in message


@pytest.mark.parametrize("text", ["contexts = ", "\x00", "a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(text: str, write: Write) -> None:
    assert "cannot be read" in refused(write(text))


def test_a_file_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = refused(tmp_path / "missing.toml")
    assert "--config" in message
    assert "SLURMBRIDGE_CONFIG" in message


@pytest.mark.parametrize(
    ("destination", "part"),
    [("nope:a", "'nope'"), ("data:a", "'data'"), (":a", "''")],
)
def test_a_default_destination_must_be_in_a_store_that_is_written_to(
    destination: str, part: str, write: Write
) -> None:
    message = refused(write(f'default_destination = "{destination}"\n{MINIMAL}'))
    assert f"names no writable store: {part}" in message


def test_a_default_destination_in_a_writable_store_is_taken(write: Write) -> None:
    settings = load(write(f'default_destination = "results:a/b"\n{MINIMAL}'))
    assert settings.default_destination == "results:a/b"


@pytest.mark.parametrize("destination", ["results:../up", "results", "results:", "results:/abs"])
def test_a_default_destination_stays_within_its_store(destination: str, write: Write) -> None:
    with pytest.raises(ConfigurationError):
        load(write(f'default_destination = "{destination}"\n{MINIMAL}'))


def test_nothing_can_be_set_afterwards(write: Write) -> None:
    settings = load(write(MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        settings.contexts = Path("/elsewhere")  # type: ignore[misc]


# --- variables ---


def test_a_variable_wins_over_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMBRIDGE_SLURM__POLL_SECONDS", "2.5")
    monkeypatch.setenv("SLURMBRIDGE_CONTEXTS", "/other")
    settings = load(write(MINIMAL + "[slurm]\npoll_seconds = 1\ntimeout_seconds = 3\n"))
    assert settings.slurm.poll_seconds == 2.5
    assert settings.slurm.timeout_seconds == 3
    assert settings.contexts == Path("/other")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLURMBRIDGE_CONTEXTS", "with space"),
        ("SLURMBRIDGE_API__PORT", "no"),
        ("SLURMBRIDGE_SLURM__WALLTIME", "1"),
    ],
)
def test_a_variable_is_checked_like_the_file(
    variable: str, value: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    refused(write(MINIMAL))


def test_the_file_is_the_named_one_or_that_of_the_variable_or_the_systems(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    assert config_file(None) == SYSTEM_FILE
    path = write(MINIMAL)
    monkeypatch.setenv("SLURMBRIDGE_CONFIG", str(path))
    assert config_file(None) == path
    assert config_file(Path("/x")) == Path("/x")
    assert load().images == Path("/shared/images")


# --- where it comes from ---


def test_each_value_is_told_with_its_origin(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMBRIDGE_API__PORT", "9000")
    path = write(MINIMAL + "[slurm]\npoll_seconds = 1\n[api]\nport = 1\n")
    found: dict[str, tuple[Any, str]] = {
        key: (value, origin) for key, value, origin in origins(load(path), path)
    }
    assert found["slurm.poll_seconds"] == (1.0, str(path))
    assert found["api.port"] == (9000, "SLURMBRIDGE_API__PORT")
    assert found["api.host"] == ("127.0.0.1", "default")
    assert found["stores.data.folder"] == ("/shared/data", str(path))
    assert found["stores.data.read"] == (True, "default")


def test_every_setting_has_an_origin(write: Write) -> None:
    path = write(MINIMAL)
    keys = {key.partition(".")[0] for key, _, _ in origins(load(path), path)}
    # Without clusters and mirrors there is nothing below them.
    assert keys == set(Settings.model_fields) - {"clusters", "mirrors"}


REQUIREMENTS = (
    MINIMAL
    + """
[requirements]
partition = "network"
default_source = "pypi"
[requirements.sources.pypi]
url = "https://packages.example/index/"
proxy = "http://proxy.example:3128"
certificates = "/etc/ssl/site.pem"
[requirements.sources.wheels]
folder = "/shared/wheels"
sources_built = true
"""
)


def test_nothing_is_installed_unless_there_is_a_source(write: Write) -> None:
    found = load(write(MINIMAL)).requirements
    assert (found.sources, found.usual_source) == ({}, None)


def test_sources_of_requirements_are_indexes_and_wheelhouses(write: Write) -> None:
    found = load(write(REQUIREMENTS)).requirements
    places = [source.place(name) for name, source in found.sources.items()]
    assert places == [
        Index(
            "pypi",
            "https://packages.example/index/",
            "/etc/ssl/site.pem",
            "http://proxy.example:3128",
        ),
        Wheelhouse("wheels", "/shared/wheels"),
    ]
    assert [source.sources_built for source in found.sources.values()] == [False, True]
    assert (found.usual_source, found.limits) == ("pypi", StepLimits())


def test_the_only_source_is_the_usual_one_and_of_several_one_is_named(write: Write) -> None:
    several = REQUIREMENTS.replace('default_source = "pypi"\n', "")
    assert load(write(several)).requirements.usual_source is None
    only = several.partition("[requirements.sources.wheels]")[0]
    assert load(write(only)).requirements.usual_source == "pypi"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"pypi"\n', '"gone"\n', "default_source names no source: 'gone'"),
        (
            'url = "https',
            'url = "ftp',
            "sources.pypi: 'ftp://packages.example/index/' is no address",
        ),
        ("packages.example", "me:secret@packages.example", "must need no credentials"),
        ('folder = "/shared/wheels"\n', "", "sources.wheels: needs a url or a folder"),
        ('url = "', 'folder = "/wheels"\nurl = "', "a folder has no url, certificates or proxy"),
    ],
)
def test_a_source_that_is_none_is_refused(write: Write, old: str, new: str, told: str) -> None:
    said = refused(write(REQUIREMENTS.replace(old, new)))
    assert told in said
    assert "secret" not in said


def test_a_cluster_installs_where_it_says(write: Write) -> None:
    text = CLUSTERS + 'requirements.partition = "network"\nrequirements.folder = "/scratch/r"\n'
    far = load(write(text)).clusters["far"].requirements
    assert (far.partition, far.folder, far.account) == ("network", Path("/scratch/r"), None)
