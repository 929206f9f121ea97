"""What the check of the configuration finds on this host."""

from pathlib import Path

from slurmbridge.settings import load
from slurmbridge.wiring import Site


def test_a_key_that_cannot_be_read_is_told_by_the_check_of_the_configuration(
    tmp_path: Path,
) -> None:
    file = tmp_path / "slurmbridge.toml"
    file.write_text(
        f'database = "sqlite:///{tmp_path}/db"\ncontexts = "{tmp_path}"\nimages = "{tmp_path}"\n'
        f'[stores.data]\nfolder = "{tmp_path}"\n[image_trust]\nkey = "{tmp_path}/key.pem"\n'
    )
    problem = f"image_trust.key: {tmp_path}/key.pem cannot be read"
    assert problem in Site(load(file)).check()
    (tmp_path / "key.pem").touch()
    assert problem not in Site(load(file)).check()
