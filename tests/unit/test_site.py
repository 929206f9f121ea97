"""What the check of the configuration finds on this host."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurmbridge.container import helpers
from slurmbridge.container.signing import load_key
from slurmbridge.errors import ConfigurationError
from slurmbridge.script import DEFAULT_TEMPLATES, DOCTOR
from slurmbridge.settings import load
from slurmbridge.wiring import Site
from tests.support.specs import HELPERS, IMAGE, spec


@dataclass
class Host:
    """A folder with everything, and a configuration that names it."""

    folder: Path

    def site(self, **more: str) -> Site:
        """A site with these keys besides."""
        values = {
            "database": f"sqlite:///{self.folder}/db",
            "contexts": str(self.folder),
            "images": str(self.folder),
            "signing_key": f"{self.folder}/signing.pem",
            "stores.data.folder": str(self.folder),
            **more,
        }
        file = self.folder / "slurmbridge.toml"
        file.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
        return Site(load(file))

    def check(self, **more: str) -> list[str]:
        """What is found, with a schema that is up to date."""
        site = self.site(**more)
        site.migrate()
        return site.check()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_with_everything_is_sound_and_left_as_it_is(host: Host) -> None:
    assert host.check() == []
    left = {path.name for path in host.folder.iterdir()}
    assert left <= {"slurmbridge.toml", "db", "db-shm", "db-wal"}


def test_a_key_for_images_that_cannot_be_read_is_told(host: Host) -> None:
    key = host.folder / "key.pem"
    more = {"image_trust.key": str(key)}
    assert host.check(**more) == [f"image_trust.key: {key} cannot be read"]
    key.touch()
    assert host.check(**more) == []


def test_a_signing_key_that_others_may_read_is_told(host: Host) -> None:
    key = host.folder / "signing.pem"
    load_key(key)
    assert host.check() == []
    key.chmod(0o640)
    assert host.check() == [f"signing_key: others may read {key}: chmod 600 it"]


@pytest.mark.parametrize("name", ["missing/signing.pem", "closed/signing.pem"])
@pytest.mark.usefixtures("unprivileged")
def test_a_signing_key_that_cannot_be_made_is_told(host: Host, name: str) -> None:
    (host.folder / "closed").mkdir(mode=0o500)
    key = host.folder / name
    [problem] = host.check(signing_key=str(key))
    assert problem == f"signing_key: {key} cannot be made: {key.parent} cannot be written to"


def test_a_signing_key_has_to_be_absolute(host: Host) -> None:
    with pytest.raises(ConfigurationError, match=r"signing_key: .* must be absolute"):
        host.site(signing_key="signing.pem")


def test_templates_without_the_one_for_nodes_are_told(host: Host) -> None:
    templates = host.folder / "templates"
    shutil.copytree(DEFAULT_TEMPLATES, templates)
    (templates / DOCTOR).unlink()
    [problem] = host.check(templates=str(templates))
    assert (
        problem == f"templates: the templates folder {templates} holds no {DOCTOR} that can be read"
    )


def test_helpers_that_cannot_be_built_are_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "COMPILER", "no-such-compiler")
    [problem] = host.check()
    assert problem.startswith("the sealing helpers are not built, and cannot be: no-such-compiler")


def test_without_a_schema_nothing_is_said_of_helpers(host: Host) -> None:
    [problem] = host.site().check()
    assert problem.startswith("database: the database has schema none")


def test_templates_that_cannot_install_are_told_where_something_is_installed(host: Host) -> None:
    templates = host.folder / "templates"
    shutil.copytree(DEFAULT_TEMPLATES, templates)
    (templates / "parts/requirements_run.j2").unlink()
    assert host.check(templates=str(templates)) == []
    sources = {"requirements.sources.wheels.folder": "/shared/wheels"}
    [problem] = host.check(templates=str(templates), **sources)
    assert problem.startswith(f"templates: the templates folder {templates} cannot install")


def test_a_script_can_be_looked_at_before_anything_is_installed(host: Host) -> None:
    site = host.site(**{"requirements.sources.wheels.folder": "/shared/wheels"})
    site.migrate()
    text = site.cluster().render("0" * 26, spec(requirements="data:r.txt"), IMAGE, HELPERS)
    assert f"exec 9<{host.folder}/requirements/{'0' * 64}/made/requirements.sqsh" in text
