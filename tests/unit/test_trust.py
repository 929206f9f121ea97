"""Which image files are trusted: by digest, by signature, and until they are revoked."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurmbridge.container.images import ImageBuilder
from slurmbridge.container.sif import SifReader, file_sha256, image_variables
from slurmbridge.container.trust import Added, ImageKeeper, SignatureRule, revocation_marker
from slurmbridge.errors import ImageRefused, RequestError, ShellUnavailable
from slurmbridge.model import Image
from slurmbridge.settings import load
from slurmbridge.shell import LocalShell
from slurmbridge.store import ImageStore
from slurmbridge.wiring import Site
from tests.support.builders import fresh_database
from tests.support.sif import SQUASHFS, reader, write_sif
from tests.support.specs import IMAGE, START
from tests.unit.test_images import GOOD


@dataclass
class Trust:
    """A keeper of images, its records and its folders."""

    folder: Path
    records: ImageStore
    clock: Callable[[], datetime]
    rule: SignatureRule = field(default_factory=SignatureRule)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def keeper(self) -> ImageKeeper:
        sif = reader(self.folder)
        return ImageKeeper(
            self.records, sif, self.rule, images=self.images, user="carol", clock=self.clock
        )

    def signing(self, *, required: bool) -> "Trust":
        """The same, with a key configured."""
        key = self.folder / "key.pem"
        key.write_text("ours\n")
        return replace(self, rule=SignatureRule(key, required))

    def file(self, *lines: str) -> Path:
        return write_sif(self.folder / "given.sif", *lines)

    def add(self, *lines: str, name: str = "small", remark: str | None = None) -> Added:
        file = self.file(*lines)
        return self.keeper.add(name, file, sha256=file_sha256(file), remark=remark)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.images.iterdir())

    def build(self, name: str = "small", definition: str = GOOD) -> tuple[Image, list[str]]:
        """Take what is recorded for a definition; a real build needs Apptainer."""
        (self.folder / f"{name}.def").write_text(definition)
        builder = ImageBuilder(
            self.records, reader(self.folder), definitions=self.folder, images=self.images,
            mirror=None, key=self.rule.key, clock=self.clock,
        )  # fmt: skip
        told: list[str] = []
        return builder.build(name, force=False, on_line=told.append), told

    def built(self, *lines: str, definition: str = GOOD, environment: bool = True) -> Image:
        """Record an image as if it had been built from a definition."""
        text = self.folder / "text.def"
        text.write_text(definition)
        file = write_sif(self.folder / "built.sif", *lines)
        final = self.images / f"small-{file_sha256(file)[:16]}.sif"
        file.rename(final)
        image = IMAGE.model_copy(
            update={
                "name": "small",
                "path": str(final),
                "sha256": file_sha256(final),
                "definition_sha256": file_sha256(text),
                "environment": {"PATH": "/usr/bin"} if environment else {},
                "built_at": self.clock(),
            }
        )
        text.unlink()
        self.records.record(image)
        return image


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    (tmp_path / "images").mkdir()
    moments = (START + timedelta(minutes=number) for number in range(1000))
    return Trust(tmp_path, ImageStore(fresh_database()), lambda: next(moments))


# --- adding ---


def test_what_is_added_lies_read_only_in_the_images_folder_and_is_recorded(trust: Trust) -> None:
    added = trust.add("export A=b c=d", remark=" from the vendor ")
    image = added.image
    assert (added.changed, added.before) == (True, None)
    assert trust.records.all() == [image]
    path = Path(image.path)
    assert path == trust.images / f"small-{image.sha256[:16]}.sif"
    assert path.read_bytes() == (trust.folder / "given.sif").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o440
    assert trust.left() == [path.name]
    assert (image.added_by, image.remark, image.definition_sha256) == (
        "carol", "from the vendor", None,
    )  # fmt: skip
    assert image.environment == {"A": "b c=d", "LANG": "C", "PATH": "/usr/bin"}
    assert image.labels == {"title": "a small one"}
    assert (image.squashfs_offset, image.size_bytes) == (36864, path.stat().st_size)
    assert image.signed is False


def test_another_digest_leaves_nothing_behind(trust: Trust) -> None:
    file = trust.file()
    with pytest.raises(ImageRefused, match=f"has the SHA-256 {file_sha256(file)}, not the one"):
        trust.keeper.add("small", file, sha256="0" * 64, remark=None)
    assert (trust.left(), trust.records.all()) == ([], [])


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "sha256:" + "0" * 64])
def test_a_digest_has_to_be_given_whole(trust: Trust, digest: str) -> None:
    with pytest.raises(RequestError, match="64 hexadecimal digits"):
        trust.keeper.add("small", trust.file(), sha256=digest, remark=None)


def test_a_digest_may_be_written_in_capitals(trust: Trust) -> None:
    file = trust.file()
    digest = file_sha256(file)
    added = trust.keeper.add("small", file, sha256=digest.upper(), remark=None)
    assert added.image.sha256 == digest


@pytest.mark.parametrize("name", ["", "../small", "Small", "a/b", "-a", ".a", "a\n", "a" * 65])
def test_a_name_that_no_specification_could_say_is_refused(trust: Trust, name: str) -> None:
    with pytest.raises(RequestError, match="is no name of an image"):
        trust.add(name=name)
    assert trust.left() == []


@pytest.mark.parametrize("remark", ["", "  ", "a\0b", "\udcff"])
def test_a_remark_that_is_none_is_refused(trust: Trust, remark: str) -> None:
    with pytest.raises(RequestError, match="the remark"):
        trust.add(remark=remark)


@pytest.mark.parametrize(
    "filesystems",
    [
        (),
        (SQUASHFS.replace("Squashfs", "Ext3"),),
        (SQUASHFS.replace("Squashfs", "Encrypted squashfs"),),
        (SQUASHFS.replace("*System", "Data"),),
        (SQUASHFS.replace("*System", "Data"), SQUASHFS),
    ],
)
def test_only_a_sif_with_one_squashfs_is_an_image(
    trust: Trust, filesystems: tuple[str, ...]
) -> None:
    file = write_sif(trust.folder / "given.sif", filesystems=filesystems)
    with pytest.raises(ImageRefused, match="not a SIF file with one squashfs"):
        trust.keeper.add("small", file, sha256=file_sha256(file), remark=None)
    assert (trust.left(), trust.records.all()) == ([], [])


def test_what_is_no_sif_file_is_refused(trust: Trust) -> None:
    file = trust.folder / "given.sif"
    file.write_text("hello\n")
    with pytest.raises(ImageRefused, match="not a SIF file"):
        trust.keeper.add("small", file, sha256=file_sha256(file), remark=None)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "unreadable folder"])
def test_what_is_no_file_is_refused(trust: Trust, kind: str) -> None:
    file = trust.folder / "given"
    if kind == "folder":
        file.mkdir()
    if kind == "pipe":
        os.mkfifo(file)
    if kind == "unreadable folder":
        trust.images.rmdir()
        write_sif(file)
    with pytest.raises(ImageRefused, match=r"is not a file|cannot be copied: No such file"):
        trust.keeper.add("small", file, sha256="0" * 64, remark=None)


def test_adding_twice_changes_nothing(trust: Trust) -> None:
    first = trust.add(remark="one").image
    inode = Path(first.path).stat().st_ino
    second = trust.add()
    assert (second.image, second.changed) == (first, False)
    assert trust.records.all() == [first]
    # Nodes may have it open.
    assert Path(first.path).stat().st_ino == inode


def test_adding_again_mends_a_file_that_was_changed(trust: Trust) -> None:
    image = trust.add().image
    Path(image.path).chmod(0o600)
    Path(image.path).write_text("cut")
    trust.add()
    assert file_sha256(Path(image.path)) == image.sha256


def test_the_latest_of_a_name_is_the_one_that_runs_and_an_older_one_can_be_taken_again(
    trust: Trust,
) -> None:
    old = trust.add("export A=1").image
    new = trust.add("export A=2")
    assert new.before == old
    assert trust.records.get("small") == new.image
    again = trust.add("export A=1", remark="the new one fails")
    assert again.changed
    assert again.before == new.image
    assert trust.records.get("small").sha256 == old.sha256
    assert len(trust.records.all()) == 2


def test_a_file_has_one_name(trust: Trust) -> None:
    trust.add()
    with pytest.raises(ImageRefused, match="recorded already, as small"):
        trust.add(name="other")


def test_an_image_without_env_is_refused_with_the_words_of_apptainer(trust: Trust) -> None:
    with pytest.raises(ImageRefused, match='does not run `env -0`: "env": executable file not'):
        trust.add("broken")
    assert trust.left() == []


# --- the environment ---


def test_of_the_variables_only_the_image_s_own_are_kept() -> None:
    given = {
        "APPTAINER_NAME": "x", "SINGULARITY_BIND": "", "PS1": "> ", "PROMPT_COMMAND": "x",
        "PWD": "/", "OLDPWD": "/", "SHLVL": "1", "_": "/usr/bin/env", "HOME": "/root", "TERM": "x",
        "LD_LIBRARY_PATH": "/.singularity.d/libs",
    }  # fmt: skip
    kept = {"PATH": "/opt/bin:/bin", "LANG": "C", "LC_ALL": "C.UTF-8", "R_HOME": "/usr/lib/R"}
    assert image_variables(given | kept) == kept


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/opt/lib:/.singularity.d/libs", {"LD_LIBRARY_PATH": "/opt/lib"}),
        ("/a:/b:/.singularity.d/libs", {"LD_LIBRARY_PATH": "/a:/b"}),
        ("/.singularity.d/libs", {}),
        ("", {}),
    ],
)
def test_of_the_library_path_the_image_s_own_part_is_kept(value: str, kept: object) -> None:
    assert image_variables({"LD_LIBRARY_PATH": value}) == kept


@pytest.mark.parametrize(
    ("line", "said"),
    [("export hello", "'hello' is no variable"), ("export A=\udcff", "value of A is not valid")],
)
def test_an_environment_that_cannot_be_told_is_refused(trust: Trust, line: str, said: str) -> None:
    file = trust.folder / "given.sif"
    file.write_bytes(f"SIF\n{SQUASHFS}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(ImageRefused, match=said):
        trust.keeper.add("small", file, sha256=file_sha256(file), remark=None)


def test_without_apptainer_it_is_said_that_it_is_missing(tmp_path: Path) -> None:
    here = SifReader(LocalShell(("/usr/bin/env", f"PATH={tmp_path}", "/nowhere/nice")))
    with pytest.raises(ImageRefused, match="not a SIF file"):
        here.squashfs_offset(tmp_path)
    nowhere = SifReader(LocalShell(("/nowhere/nice",)))
    with pytest.raises(ShellUnavailable, match="cannot be started"):
        nowhere.squashfs_offset(tmp_path)


# --- signatures ---


def test_a_signature_counts_when_it_was_made_with_the_key(trust: Trust) -> None:
    trust = trust.signing(required=True)
    assert trust.add("signed ours").image.signed
    for line in ("signed theirs", "unsigned"):
        with pytest.raises(ImageRefused, match="not signed as required: signature not found"):
            trust.add(line)
    assert len(trust.left()) == 1


def test_where_no_signature_is_required_its_absence_is_recorded(trust: Trust) -> None:
    trust = trust.signing(required=False)
    assert not trust.add("signed theirs").image.signed
    assert trust.add("signed ours").image.signed


def test_another_key_is_noticed_by_verify_and_recorded(trust: Trust) -> None:
    trust = trust.signing(required=True)
    image = trust.add("signed ours").image
    (trust.folder / "key.pem").write_text("theirs\n")
    verdict = trust.keeper.verify(image)
    assert verdict.problems == ("not signed as required: signature not found",)
    assert not trust.records.get("small").signed
    (trust.folder / "key.pem").write_text("ours\n")
    assert trust.keeper.verify(trust.records.get("small")).problems == ()
    assert trust.records.get("small").signed


def test_what_was_built_here_needs_no_signature(trust: Trust) -> None:
    image = trust.built()
    strict = trust.signing(required=True)
    assert strict.keeper.verify(image).problems == ()
    file = Path(image.path)
    added = strict.keeper.add("small", file, sha256=image.sha256, remark=None)
    assert added.image.definition_sha256 == image.definition_sha256


# --- verifying ---


def test_an_image_that_is_as_recorded_has_no_problem(trust: Trust) -> None:
    assert trust.keeper.verify(trust.add().image).problems == ()


def test_a_file_that_was_changed_or_removed_is_found_out(trust: Trust) -> None:
    image = trust.add().image
    path = Path(image.path)
    path.chmod(0o600)
    path.write_text("changed")
    assert trust.keeper.verify(image).problems == ("the file is not the recorded one",)
    path.unlink()
    assert trust.keeper.verify(image).problems == ("the file is missing",)


def test_a_revoked_image_fails(trust: Trust) -> None:
    image = trust.add().image
    trust.keeper.revoke(image, reason="CVE-2026-1")
    revoked = trust.records.get("small")
    assert trust.keeper.verify(revoked).problems == ("revoked: CVE-2026-1",)


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
    trust.built("export A=2", definition=GOOD + "\n")
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
    (trust.folder / "small.def").write_text(GOOD)
    builder = Rebuilt(
        trust.records, reader(trust.folder), definitions=trust.folder, images=trust.images,
        mirror="http://mirror.example.org/debian", key=None, clock=trust.clock,
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


# --- the site ---


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
