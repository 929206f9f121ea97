"""Definitions: what they must hold; and the mirror that a host's own apt uses."""

from pathlib import Path

import pytest

from slurmbridge.container.images import (
    DEFAULT_DEFINITIONS,
    ImageBuilder,
    Packages,
    build_arguments,
    host_mirror,
    read_definition,
)
from slurmbridge.container.sif import file_sha256
from slurmbridge.errors import DefinitionInvalid, ImageBuildFailed
from slurmbridge.model import Image
from slurmbridge.store import ImageStore
from tests.support.databases import fresh_database
from tests.support.sif import reader
from tests.support.specs import IMAGE, START
from tests.support.trust import DEFINITION


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shell.def"
    path.write_text(text)
    return path


def without(section: str) -> str:
    head, *sections = DEFINITION.split("\n%")
    return "\n%".join([head, *(text for text in sections if not text.startswith(section))])


@pytest.mark.parametrize("path", sorted(DEFAULT_DEFINITIONS.glob("*.def")), ids=lambda p: p.stem)
def test_every_definition_that_is_shipped_is_whole(path: Path) -> None:
    definition = read_definition(path)
    assert definition.labels["org.opencontainers.image.title"] == path.stem
    assert "org.opencontainers.image.licenses" in definition.labels


def test_a_definition_is_shipped() -> None:
    assert (DEFAULT_DEFINITIONS / "python.def").is_file()


def test_labels_are_read_with_all_their_words(tmp_path: Path) -> None:
    assert read_definition(written(tmp_path, DEFINITION)).labels == {
        "org.opencontainers.image.title": "shell",
        "org.opencontainers.image.description": "A shell, and more",
    }


@pytest.mark.parametrize("section", ["help", "labels", "post", "test"])
def test_a_definition_that_lacks_a_section_is_refused_and_the_section_is_named(
    section: str, tmp_path: Path
) -> None:
    with pytest.raises(DefinitionInvalid, match=rf"shell\.def lacks %{section}$"):
        read_definition(written(tmp_path, without(section)))


def test_all_sections_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DefinitionInvalid, match="lacks %help, %labels, %post, %test"):
        read_definition(written(tmp_path, "Bootstrap: docker\nFrom: debian\n"))


def test_labels_without_a_label_are_none(tmp_path: Path) -> None:
    text = DEFINITION.replace("    org.opencontainers.image.title shell\n", "")
    text = text.replace("    org.opencontainers.image.description A shell, and more\n", "")
    with pytest.raises(DefinitionInvalid, match="has no label under %labels"):
        read_definition(written(tmp_path, text))


@pytest.mark.parametrize("bootstrap", ["shub", "library", "localimage", "Docker ", ""])
def test_a_definition_that_starts_from_elsewhere_is_refused(bootstrap: str, tmp_path: Path) -> None:
    text = DEFINITION.replace("Bootstrap: debootstrap", f"Bootstrap: {bootstrap}")
    with pytest.raises(DefinitionInvalid, match=r"has Bootstrap: .*allowed: debootstrap, docker"):
        read_definition(written(tmp_path, text))


def test_a_definition_that_starts_from_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionInvalid, match=r"Bootstrap: \(none\)"):
        read_definition(written(tmp_path, DEFINITION.replace("Bootstrap: debootstrap\n", "")))


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_what_is_no_text_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "shell.def"
    if kind == "folder":
        path.mkdir()
    if kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DefinitionInvalid, match=r"shell\.def"):
        read_definition(path)


# --- which image is taken ---


def builder(tmp_path: Path, image: Image) -> ImageBuilder:
    records = ImageStore(fresh_database())
    records.record(image)
    return ImageBuilder(
        records, reader(tmp_path), definitions=tmp_path, images=tmp_path,
        packages=Packages(), key=None, clock=lambda: START,
    )  # fmt: skip


def test_an_image_that_is_recorded_and_intact_is_not_built_again(tmp_path: Path) -> None:
    definition = written(tmp_path, DEFINITION)
    built = tmp_path / "shell.sif"
    built.write_bytes(b"image")
    image = IMAGE.model_copy(
        update={
            "name": "shell",
            "path": str(built),
            "sha256": file_sha256(built),
            "definition_sha256": file_sha256(definition),
            "environment": {"PATH": "/usr/bin"},
        }
    )
    told: list[str] = []
    assert builder(tmp_path, image).build("shell", force=False, on_line=told.append) == image
    assert told == [f"shell is built already: {built}"]


def test_only_what_is_defined_can_be_built(tmp_path: Path) -> None:
    written(tmp_path, DEFINITION)
    (tmp_path / "notes.txt").touch()
    images = builder(tmp_path, IMAGE)
    assert images.names() == ["shell"]
    for name in ("julia", "../shell", "notes"):
        with pytest.raises(DefinitionInvalid, match="there are: shell"):
            images.build(name, force=False, on_line=print)


def test_a_broken_definition_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    written(tmp_path, without("test"))
    with pytest.raises(DefinitionInvalid, match="lacks %test"):
        builder(tmp_path, IMAGE).build("shell", force=True, on_line=print)


# --- where packages are from ---


def test_a_definition_is_given_the_addresses_that_it_asks_for_and_no_others() -> None:
    packages = Packages("http://mirror.example.org/debian", "https://packages.example/index/")
    mirror, index = f"mirror={packages.mirror}", f"index={packages.index}"
    assert build_arguments("MirrorURL: {{ mirror }}", packages) == [mirror]
    assert build_arguments("{{ mirror }} {{ index }}", packages) == [mirror, index]
    assert build_arguments("Bootstrap: localimage", Packages()) == []
    # pip's own, which is PyPI.
    assert build_arguments("'{{ index }}'", Packages("http://x/debian")) == ["index="]


# --- the mirror ---


def host(root: Path, release: str) -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(release)
    return root


DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n'
OURS = "http://mirror.example.org/debian"


@pytest.mark.parametrize(
    "text",
    [
        f"deb {OURS} trixie main\n",
        f"deb {OURS}/ trixie main\n",
        f"# deb http://other.example.org/debian trixie main\ndeb {OURS} trixie main\n",
        f"deb [signed-by=/k.gpg arch=amd64] {OURS} trixie main\n",
        f"deb http://security.example.org/debian-security trixie main\ndeb {OURS} trixie main\n",
        f"Types: deb\nURIs: {OURS}\nSuites: trixie\n",
        f"Types: deb\nURIs: {OURS}/\nSuites: trixie\n",
    ],
)
@pytest.mark.parametrize("place", ["sources.list", "sources.list.d/debian.sources"])
def test_debian_builds_from_the_mirror_of_its_own_apt(
    text: str, place: str, tmp_path: Path
) -> None:
    root = host(tmp_path, DEBIAN)
    (root / "etc/apt" / place).write_text(text)
    assert host_mirror(root) == OURS


@pytest.mark.parametrize(
    "release", ["ID=ubuntu\nID_LIKE=debian\n", "ID=rocky\n", "", 'NAME="ID=debian"\n']
)
def test_another_system_has_to_name_a_mirror(release: str, tmp_path: Path) -> None:
    root = host(tmp_path, release)
    (root / "etc/apt/sources.list").write_text(f"deb {OURS} trixie main\n")
    with pytest.raises(ImageBuildFailed, match="name one as `mirror`"):
        host_mirror(root)


def test_debian_without_a_mirror_of_its_own_has_to_name_one(tmp_path: Path) -> None:
    root = host(tmp_path, DEBIAN)
    (root / "etc/apt/sources.list").write_text("deb cdrom:[Debian]/ trixie main\n")
    with pytest.raises(ImageBuildFailed, match="name one as `mirror`"):
        host_mirror(root)


def test_a_host_without_any_of_this_has_to_name_a_mirror(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildFailed, match="name one as `mirror`"):
        host_mirror(tmp_path)
