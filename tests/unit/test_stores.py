"""What Data Stores decide without a server: paths, secrets, settings, statuses, parts, answers."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from slurmbridge.errors import (
    ConfigurationError,
    StoreAnswerUnreadable,
    StoreFailed,
    StoreForbids,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.shell import NotPlain
from slurmbridge.stores import (
    ReadOnly,
    StoreSettings,
    UploadOnly,
    check_path,
    is_partial,
    multistatus,
    open_store,
    paths,
    statuses,
    why_unusable,
)
from slurmbridge.stores.folder import FolderStore
from slurmbridge.stores.s3_upload import part_bytes
from slurmbridge.stores.secrets import read_access_key, read_line, read_secret
from slurmbridge.stores.settings import FolderSettings, WebDavSettings

SETTINGS: TypeAdapter[StoreSettings] = TypeAdapter(StoreSettings)
WEB = {"kind": "webdav", "url": "https://cloud.example.org/dav/"}


def secret(path: Path, content: bytes = b"word\n", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


# --- paths ---


@given(st.text(max_size=30))
def test_a_path_is_refused_or_stays_below(path: str) -> None:
    said = ""
    try:
        check_path(path)
    except StoreForbids as error:
        said = str(error)
    if said:
        assert said.isprintable()
        return
    assert os.path.normpath("/root/" + path) == "/root/" + path
    assert "\0" not in path
    assert "\n" not in path


def test_names_that_no_folder_can_have() -> None:
    for names in (["a", "a"], ["."], [".."], [""], ["a/b"], ["a\0"]):
        with pytest.raises(StoreAnswerUnreadable):
            paths.check_names("archive", "folder", names)
    # Another one could be there, and cannot be used in a path.
    paths.check_names("archive", "folder", ["a\nb", "a"])
    assert why_unusable("a\nb") == "it holds a control character"
    assert why_unusable("a b") is None


def test_partial_names_are_known() -> None:
    assert is_partial(paths.partial_name())
    assert not is_partial(".partial-of-somebody")


# --- secrets ---


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_for_its_owner_alone(tmp_path: Path, mode: int) -> None:
    found = read_line(secret(tmp_path / "secret", b" pass word\n", mode))
    assert found.get_secret_value() == " pass word"
    assert "pass" not in repr(found) + str(found)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_secret_that_others_can_use(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path / "secret", mode=mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600"):
        read_secret(path)


def test_a_secret_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret(tmp_path / "secret")
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(ConfigurationError, match="belongs to user"):
        read_secret(path)


def test_secrets_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "fifo"):
        with pytest.raises(ConfigurationError, match="secret file"):
            read_secret(path)
    for content in (b"", b"\n", b"\xff", b"x" * 70_000, b"two\nlines"):
        with pytest.raises(ConfigurationError) as caught:
            read_line(secret(tmp_path / "secret", content))
        assert "two" not in str(caught.value)


def test_an_access_key_as_of_amazon(tmp_path: Path) -> None:
    content = b"[any]\naws_access_key_id = ID\naws_secret_access_key = a%b/c=\n"
    key, word, token = read_access_key(secret(tmp_path / "key", content))
    assert (key.get_secret_value(), word.get_secret_value(), token) == ("ID", "a%b/c=", None)
    more = secret(tmp_path / "token", content + b"aws_session_token=T\n")
    assert read_access_key(more)[2] is not None
    for wrong in (b"ID\nSECRET\n", b"[a]\n[b]\n", b"[a]\naws_access_key_id = ID\n"):
        with pytest.raises(ConfigurationError, match="not of one section") as caught:
            read_access_key(secret(tmp_path / "wrong", wrong))
        assert caught.value.__cause__ is None
        assert "SECRET" not in str(caught.value)


# --- settings ---


def test_a_store_is_a_folder_unless_it_says_otherwise() -> None:
    found = SETTINGS.validate_python({"folder": "/data"})
    assert found == FolderSettings(folder=Path("/data"))
    assert isinstance(SETTINGS.validate_python(WEB), WebDavSettings)
    assert SETTINGS.validate_python(found) is found


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"folder": "relative"}, "absolute"),
        ({"folder": "/a", "url": "https://a"}, "Extra inputs"),
        ({"kind": "ftp"}, "does not match any"),
        (WEB | {"url": "https://me:word@a/"}, "holds a user"),
        (WEB | {"url": "ftp://a/"}, "no address"),
        (WEB | {"url": "https://a/?x"}, "query"),
        (WEB | {"url": "https://a:99999/"}, "no address"),
        (WEB | {"url": "http://cloud.example.org/"}, "not encrypted"),
        (WEB | {"url": "http://localhost/", "ca_file": "/ca.pem"}, "without https"),
        (WEB | {"user": "me"}, "belong together"),
        (WEB | {"user": "me", "password_file": "/a", "token_file": "/b"}, "which is it"),
        (WEB | {"user": "a:b", "password_file": "/a"}, "pattern"),
        ({"kind": "s3", "bucket": "b/c", "access_key_file": "/a"}, "pattern"),
        ({"kind": "s3", "bucket": "abc", "access_key_file": "/a", "prefix": "/x"}, "relative"),
    ],
)
def test_settings_that_contradict(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        SETTINGS.validate_python(settings)
    assert "me:word" not in "".join(detail["msg"] for detail in caught.value.errors())


def test_a_store_does_what_its_settings_allow(tmp_path: Path) -> None:
    made = {
        (True, False): ReadOnly, (False, True): UploadOnly, (True, True): FolderStore,
    }  # fmt: skip
    for (read, write), kind in made.items():
        settings = FolderSettings(folder=tmp_path, read=read, write=write)
        assert type(open_store("archive", settings)) is kind


def test_a_ca_file_has_to_be_one(tmp_path: Path) -> None:
    settings = SETTINGS.validate_python(WEB | {"ca_file": str(secret(tmp_path / "ca"))})
    with pytest.raises(ConfigurationError, match="ca_file"):
        open_store("archive", settings)


# --- a folder of this host ---


def test_no_link_in_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "store/real").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "store/link").symlink_to(tmp_path)
    (tmp_path / "store/file").symlink_to(tmp_path / "outside")
    store = FolderStore("archive", tmp_path / "store")
    for call in (store.look, store.list, store.remove):
        with pytest.raises(NotPlain):
            call("link/outside")
    with pytest.raises(FileExistsError):
        store.make_folder("link/outside")
    with pytest.raises(NotPlain), store.open("link/outside"):
        pass
    with pytest.raises(NotPlain), store.open("file"):
        pass
    with pytest.raises(NotPlain), store.create("link/new"):
        pass
    with pytest.raises(FileExistsError), store.create("file"):
        pass
    with pytest.raises(NotADirectoryError):
        store.list("link")
    assert (tmp_path / "outside").read_text() == "secret"


def test_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = FolderStore("archive", tmp_path)
    for content in (b"first", b"second"):
        try:
            with store.create("file") as target:
                target.write(content)
        except FileExistsError:
            assert content == b"second"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"first"}


# --- statuses ---


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, StoreRefused), (403, StoreRefused), (404, FileNotFoundError),
        (423, StoreUnavailable), (503, StoreUnavailable), (507, StoreFull), (302, StoreFailed),
        (999, StoreFailed),
    ],
)  # fmt: skip
def test_statuses(status: int, kind: type[Exception]) -> None:
    error = statuses.error_of(status, {"retry-after": "9"}, "archive", "a/b", "/secret")
    assert type(error) is kind
    if isinstance(error, StoreUnavailable):
        assert error.retry_after_seconds == 9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 0),
        ("999999999", 86_400),
        ("-1", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_when_to_come_again(text: str, seconds: float | None) -> None:
    assert statuses.retry_after({"retry-after": text}) == seconds


# --- parts of S3 ---


@pytest.mark.parametrize("mib", [5, 8, 64])
def test_ten_thousand_parts_hold_a_large_file(mib: int) -> None:
    sizes = [part_bytes(number, mib << 20) for number in range(1, 10_001)]
    assert sizes == sorted(sizes)
    assert max(sizes) <= 64 << 20
    assert sum(sizes) > 250 << 30


# --- answers to PROPFIND ---


@given(st.binary(max_size=400), st.integers(min_value=1, max_value=40))
def test_any_bytes_are_read_or_refused(body: bytes, step: int) -> None:
    chunks = [body[at : at + step] for at in range(0, len(body), step)]
    try:
        list(multistatus.read(chunks))
    except multistatus.Unreadable:
        return
    raise AssertionError("chance made no multistatus")


def test_an_answer_as_of_nextcloud_in_pieces() -> None:
    body = b"""<?xml version="1.0"?>
      <d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns"><d:response>
      <d:href>/remote.php/dav/files/me/a%20b/</d:href><d:propstat><d:prop>
      <d:resourcetype><d:collection/></d:resourcetype></d:prop>
      <d:status>HTTP/1.1 200 OK</d:status></d:propstat><d:propstat><d:prop><d:getcontentlength/>
      </d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat></d:response>
      <d:response><d:href>/remote.php/dav/files/me/a%20b/c%2525</d:href><d:propstat><d:prop>
      <d:resourcetype/><d:getcontentlength>12</d:getcontentlength>
      <d:getlastmodified>Mon, 12 Jan 2026 10:00:00 GMT</d:getlastmodified>
      <d:getetag>W/"abc"</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>
      </d:response></d:multistatus>"""
    for step in (1, 7, 10_000):
        chunks = [body[at : at + step] for at in range(0, len(body), step)]
        folder, file = (found.entry() for found in multistatus.read(chunks))
        assert (folder.name, folder.kind.value) == ("a b", "folder")
        assert (file.name, file.size_bytes, file.version) == ("c%25", 12, '"abc"')
        assert file.modified_at == 1_768_212_000
