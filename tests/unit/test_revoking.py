"""Revoking images, and building them again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from slurmbridge.container.images import ImageBuilder, Packages
from slurmbridge.container.trust import revocation_marker
from slurmbridge.errors import ImageRefused, RequestError
from slurmbridge.store import ImageStore
from tests.support.databases import fresh_database
from tests.support.sif import reader, write_sif
from tests.support.trust import DEFINITION, Trust, new_trust


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return new_trust(tmp_path)


# --- revoking ---


def test_revoking_is_recorded_and_marked_beside_the_image(trust: Trust) -> None:
    image = trust.add().image
    assert trust.keeper.revoke(image, reason="it holds a key")
    revoked = trust.records.get("small")
    assert (revoked.revoked_by, revoked.revoked_reason) == ("carol", "it holds a key")
    assert revoked.revoked_at is not None
    marker = revocation_marker(image.path)
    assert marker == Path(f"{image.path}.revoked")
    assert marker.read_text() == "it holds a key\n"
    assert trust.left() == [Path(image.path).name, marker.name]


def test_revoking_twice_changes_nothing(trust: Trust) -> None:
    image = trust.add().image
    trust.keeper.revoke(image, reason="one")
    first = trust.records.get("small")
    assert not trust.keeper.revoke(first, reason="two")
    assert trust.records.get("small") == first
    assert revocation_marker(image.path).read_text() == "one\n"


def test_the_mark_is_there_before_the_record(trust: Trust) -> None:
    image = trust.add().image
    marker = revocation_marker(image.path)
    seen: list[bool] = []

    class Watched(ImageStore):
        def revoke(self, sha256: str, *, by: str, reason: str, now: datetime) -> bool:
            seen.append(marker.exists())
            raise KeyboardInterrupt

    watched = Watched(fresh_database())
    with pytest.raises(KeyboardInterrupt):
        replace(trust, records=watched).keeper.revoke(image, reason="one")
    assert seen == [True]
    # What was half done is found out, keeps the file out, and is completed by doing it again.
    assert "revoke it again" in trust.keeper.verify(image).problems[0]
    with pytest.raises(ImageRefused, match="is marked as revoked"):
        trust.add()
    assert trust.keeper.revoke(image, reason="one")


def test_an_image_is_revoked_even_where_it_cannot_be_marked(trust: Trust) -> None:
    image = trust.add().image
    marker = revocation_marker(image.path)
    marker.with_name(f".{marker.name}").mkdir()
    with pytest.raises(ImageRefused, match=r"is revoked, but .*: mend this and revoke it again"):
        trust.keeper.revoke(image, reason="one")
    assert trust.records.get("small").revoked_reason == "one"
    marker.with_name(f".{marker.name}").rmdir()
    assert not trust.keeper.revoke(trust.records.get("small"), reason="two")
    assert marker.read_text() == "one\n"


@pytest.mark.parametrize("reason", ["", " \n", "a\0b", "\udcff"])
def test_a_revocation_needs_a_reason(trust: Trust, reason: str) -> None:
    image = trust.add().image
    with pytest.raises(RequestError, match="the reason"):
        trust.keeper.revoke(image, reason=reason)
    assert not revocation_marker(image.path).exists()


def test_a_revoked_file_is_never_added_again(trust: Trust) -> None:
    image = trust.add().image
    trust.keeper.revoke(image, reason="one")
    with pytest.raises(ImageRefused, match=r"was revoked at .*: one"):
        trust.add()
    with pytest.raises(ImageRefused, match="was revoked: one"):
        trust.records.record(image)


def test_in_the_place_of_a_revoked_image_nothing_older_is_used(trust: Trust) -> None:
    trust.add("export A=1")
    new = trust.add("export A=2").image
    trust.keeper.revoke(new, reason="one")
    assert trust.records.get("small").sha256 == new.sha256


# --- what is built ---


def test_an_image_of_an_earlier_version_gets_its_environment_and_is_not_built_again(
    trust: Trust,
) -> None:
    image = trust.built("export A=b", environment=False)
    found, told = trust.build()
    assert told == [f"small is built already: {image.path}"]
    environment = {"A": "b", "LANG": "C", "PATH": "/usr/bin"}
    assert found == image.model_copy(update={"environment": environment})
    assert trust.records.get("small") == found


def test_a_definition_that_came_back_runs_its_own_image_again(trust: Trust) -> None:
    old = trust.built("export A=1")
    trust.built("export A=2", definition=DEFINITION + "\n")
    found, told = trust.build()
    assert "runs it again" in told[1]
    assert trust.records.get("small") == found
    assert found.sha256 == old.sha256


def test_a_build_does_not_take_the_place_of_an_image_that_was_added(trust: Trust) -> None:
    image = trust.built("export A=1")
    added = trust.add("export A=2").image
    found, told = trust.build()
    assert (found, trust.records.get("small")) == (image, added)
    assert told[1] == f"small runs {added.sha256}, which was added: left so"
    trust.keeper.revoke(added, reason="one")
    trust.build()
    assert trust.records.get("small").sha256 == image.sha256


class Rebuilt(ImageBuilder):
    """Builds without Apptainer: the same file each time."""

    lines: tuple[str, ...] = ()

    def _apptainer_build(self, path: Path, image: Path, on_line: Callable[[str], None]) -> None:
        write_sif(image, *self.lines)


def test_a_revoked_image_is_built_afresh_and_never_comes_back(trust: Trust) -> None:
    image = trust.built("export A=1")
    trust.keeper.revoke(image, reason="one")
    (trust.folder / "small.def").write_text(DEFINITION)
    builder = Rebuilt(
        trust.records, reader(trust.folder), definitions=trust.folder, images=trust.images,
        packages=Packages("http://mirror.example.org/debian"), key=None, clock=trust.clock,
    )  # fmt: skip
    builder.lines = ("export A=2",)
    fresh = builder.build("small", force=False, on_line=print)
    assert fresh.sha256 != image.sha256
    assert trust.records.get("small") == fresh
    assert fresh.environment["A"] == "2"
    trust.keeper.revoke(fresh, reason="two")
    with pytest.raises(ImageRefused, match=f"{fresh.sha256} was revoked at .*: two"):
        builder.build("small", force=False, on_line=print)
    assert not any(name.startswith(".build-") for name in trust.left())
