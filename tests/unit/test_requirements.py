"""requirements.txt: what is taken, what is refused, and by what name the result is known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmbridge.errors import InvalidProcess
from slurmbridge.requirements import Index, Requirements, Wheelhouse, key, read_requirements
from slurmbridge.requirements.text import BYTES_LIMIT, COUNT_LIMIT, LINE_BYTES_LIMIT
from tests.support.specs import IMAGE

INDEX = Index("pypi", "https://packages.example/index/")
HASH = f"sha256:{'a' * 64}"
OTHER = f"sha512:{'b' * 128}"


def lines(text: str) -> tuple[str, ...]:
    return read_requirements(text.encode()).lines


def refusal(content: str | bytes, name: str = "requirements.txt") -> str:
    content = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(InvalidProcess) as refused:
        read_requirements(content, name=name)
    assert refused.value.fields[0][0] == "requirements"
    return str(refused.value).removeprefix("requirements: ")


# --- what is taken ---


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", []),
        ("# nothing\n\n   \n", []),
        ("numpy", ["numpy"]),
        ("\ufeffnumpy\r\npandas\r\n", ["numpy", "pandas"]),
        ("Numpy\nnumpy\nNUMPY # again\n", ["numpy"]),
        ("b\na\n", ["a", "b"]),
        ("a\\", ["a"]),
        ("zope.interface", ["zope-interface"]),
        ("requests [Socks,security] >= 2.8, == 2.8.*", ["requests[security,socks]==2.8.*,>=2.8"]),
        ("a ; python_version<'3.8' and os_name=='posix'",
         ['a ; python_version < "3.8" and os_name == "posix"']),
        ("a==1#no-comment", None),
        ("a==1 #comment", ["a==1"]),
        ("a \\\n  >=1,\\\n <2\nb", ["a<2,>=1", "b"]),
        ("a \\\n# comment\nb", ["a", "b"]),
        (f"a==1 \\\n    --hash={HASH} \\\n    --hash {OTHER}\n",
         [f"a==1 --hash={HASH} --hash={OTHER}"]),
        (f"a==1 ; os_name == 'posix' --hash={HASH}",
         [f'a==1 ; os_name == "posix" --hash={HASH}']),
    ],
)  # fmt: skip
def test_a_requirement_is_written_in_one_way(text: str, taken: list[str] | None) -> None:
    if taken is None:
        assert "is no requirement" in refusal(text)
    else:
        assert list(lines(text)) == taken


def test_hashes_are_known_of() -> None:
    assert read_requirements(f"a==1 --hash={HASH}".encode()).hashed
    assert not read_requirements(b"a==1").hashed


def test_the_text_for_pip_has_a_line_for_each() -> None:
    assert read_requirements(b"b\na").text == "a\nb\n"


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-r other.txt", "line 1: the option '-r' is refused: other files are not read"),
        ("a\n-rother.txt", "line 2: the option '-r' is refused: other files are not read"),
        ("--constraint=c.txt", "line 1: the option '--constraint' is refused: other files"),
        ("-e .", "line 1: the option '-e' is refused: editable installation is not supported"),
        ("--index-url https://x/", "line 1: the option '--index-url' is refused: the site says"),
        ("--extra-index-url=https://x/", "the site says which index is used"),
        ("--find-links /x", "the site says where wheels are found"),
        ("--trusted-host x", "the site says which index is used"),
        ("--no-binary :all:", "the site says what may be built"),
        ("--pre", "line 1: the option '--pre' is refused: only --hash is taken"),
        ("a --index-url=https://x/", "the option '--index-url' is refused"),
        ("a --config-settings=x=y", "the option '--config-settings' is refused"),
        ("a ; extra == 'x --index-url=https://x/'", "line 1: \"a ; extra == 'x\" is no "),
        ("https://x/a.whl", "line 1: addresses are refused"),
        ("FILE:///etc/passwd", "line 1: addresses are refused"),
        ("a @ https://x/a.whl", "line 1: addresses are refused"),
        ("a@file:///etc/passwd", "line 1: addresses are refused"),
        ("git+https://x/a.git", "line 1: version control is refused"),
        ("./a", "line 1: paths are refused"),
        ("/code/a", "line 1: paths are refused"),
        ("~/a", "line 1: paths are refused"),
        ("sub/a", "line 1: paths are refused"),
        ("a\\b", "line 1: paths are refused"),
        ("a-1.0-py3-none-any.whl", "line 1: files are refused"),
        ("a.tar.gz", "line 1: files are refused"),
        ("a[", "line 1: 'a[' is no requirement: "),
        ("a==", "line 1: 'a==' is no requirement: "),
        ("a b", "line 1: 'a b' is no requirement: "),
        ("a==${VERSION}", "line 1: variables of the environment are not read"),
        ("a==1 --hash=md5:abc", "line 1: 'md5:abc' is no hash"),
        ("a==1 --hash=sha256:abc", "line 1: 'sha256:abc' is no hash"),
        ("a==1 --hash", "line 1: '' is no hash"),
        (f"a==1 --hash={HASH} b", "line 1: 'b' stands behind an option"),
        (f"a>=1 --hash={HASH}", "line 1: a>=1 has a hash, so that it must have one version"),
        (f"a==1.* --hash={HASH}", "line 1: a==1.* has a hash, so that it must have one version"),
        (f"a --hash={HASH}", "line 1: a has a hash, so that it must have one version"),
        (f"a==1 --hash={HASH}\nb==1\n", "line 2: b==1 has no hash; when one has, all must"),
        ("a\x1b[31m", "line 1: it holds a control character"),
        ("a\u2028b", "line 1: it holds a control character"),
        (f"a=={'1' * LINE_BYTES_LIMIT}", f"line 1: it has more than {LINE_BYTES_LIMIT} bytes"),
        (b"a\nb\0c", "line 2: it holds a NUL byte"),
        (b"a\n\xff", "line 2: it is not UTF-8"),
        (b"#" * (BYTES_LIMIT + 1), f"the file has {BYTES_LIMIT + 1} bytes; {BYTES_LIMIT} are"),
        ("\n".join(f"a{number}" for number in range(COUNT_LIMIT + 1)),
         f"it has {COUNT_LIMIT + 1} requirements; {COUNT_LIMIT} are taken"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_told_with_its_line(text: str | bytes, sentence: str) -> None:
    told = refusal(text)
    assert sentence in told
    assert "\n" not in told


def test_every_wrong_line_is_told_and_the_first_is_the_sentence() -> None:
    with pytest.raises(InvalidProcess, match=r"^requirements: line 1: .* \(and 1 more\)$") as told:
        read_requirements(b"-e .\nnumpy\n./a\n")
    assert [message.partition(":")[0] for _, message in told.value.fields] == ["line 1", "line 3"]


def test_a_line_is_known_by_where_it_begins() -> None:
    assert refusal("a\n\nb \\\n  --pre\n").startswith("line 3: ")


@pytest.mark.parametrize(
    "name",
    [
        "renv.lock",
        "environment.yml",
        "sub/conda-lock.yml",
        "poetry.lock",
        "Pipfile",
        "Pipfile.lock",
    ],
)
def test_what_other_tools_read_is_not_supported_yet(name: str) -> None:
    base = name.rpartition("/")[2]
    assert f"{base} is not supported yet: write a requirements.txt" in refusal("numpy", name)


@given(st.text(max_size=200))
def test_whatever_is_taken_is_a_name_and_hashes_and_read_again_the_same(text: str) -> None:
    try:
        taken = read_requirements(text.encode("utf-8", "replace"))
    except InvalidProcess:
        return
    for line in taken.lines:
        assert line[0].isalnum()
        words = line.split(" ")
        assert all(word.startswith("--hash=") for word in words if word.startswith("-"))
    assert read_requirements(taken.text.encode()) == taken


# --- the key ---


def known(text: str = "a==1", **changes: object) -> str:
    image = IMAGE.model_copy(update={"sha256": changes.pop("image", IMAGE.sha256)})
    source = changes.pop("source", INDEX)
    assert isinstance(source, Index | Wheelhouse)
    architecture = str(changes.pop("architecture", "x86_64"))
    built = bool(changes.pop("sources_built", False))
    assert not changes
    wanted = read_requirements(text.encode())
    return key(wanted, image, source, architecture=architecture, sources_built=built)


@pytest.mark.parametrize("text", ["A == 1", "a==1 # x", "\na \\\n == 1", "a==1\na==1"])
def test_the_same_requirements_have_the_same_key(text: str) -> None:
    assert known(text) == known()


def test_where_a_source_lies_is_the_sites_affair() -> None:
    moved = Index("pypi", "https://elsewhere.example/index/", proxy="http://proxy.example:3128")
    assert known(source=moved) == known()


def test_whatever_else_changes_changes_the_key() -> None:
    keys = [
        known(),
        known("a==2"),
        known(f"a==1 --hash={HASH}"),
        known(image="f" * 64),
        known(source=Index("other", INDEX.url)),
        known(source=Wheelhouse("pypi", "/wheels")),
        known(architecture="aarch64"),
        known(sources_built=True),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(found) == 64 for found in keys)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "x", "https:///index", "https://user:secret@x/", "https://x/ y", "https://x/\n"],
)
def test_an_index_has_a_plain_address_and_no_credentials(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(INDEX, url=url)
    with pytest.raises(ValueError, match=r"."):
        replace(INDEX, proxy=url)


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a" * 65])
def test_a_source_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        replace(INDEX, name=name)
    with pytest.raises(ValueError, match="cannot name"):
        Wheelhouse(name, "/wheels")


def test_no_requirements_are_requirements() -> None:
    assert read_requirements(b"") == Requirements((), hashed=False)
