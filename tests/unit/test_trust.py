"""Which image files are trusted: by digest and by signature."""

import os
from pathlib import Path

import pytest

from slurmbridge.container.sif import SifReader, file_sha256, image_variables
from slurmbridge.errors import ImageRefused, RequestError, ShellUnavailable
from slurmbridge.shell import LocalShell
from tests.support.sif import SQUASHFS, write_sif
from tests.support.trust import Trust, new_trust


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return new_trust(tmp_path)


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
