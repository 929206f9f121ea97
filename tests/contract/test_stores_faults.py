"""What stores that speak HTTP do when things go wrong, each with a real server behind the fault."""

import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from slurmbridge.errors import (
    StoreAnswerUnreadable,
    StoreChanged,
    StoreFailed,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.stores import DataStore, open_store
from tests.contract.store_worlds import SETTINGS
from tests.support import s3, webdav
from tests.support.faulty_web import Asked, Fault, FaultyWeb, in_front_of

CONTENT = os.urandom(300_000)
# Which requests each kind makes for these.
LOOKING = {"webdav": "PROPFIND", "s3": "HEAD"}


class Weather:
    """A store behind a way on which things go wrong."""

    def __init__(self, kind: str, way: FaultyWeb, settings: dict[str, object]) -> None:
        self.kind = kind
        self.way = way
        self._settings = {"kind": kind, "write": True, "timeout_seconds": 5, **settings}
        self.store = self.opened()

    def opened(self, **changes: object) -> DataStore:
        """The store with other settings."""
        return open_store("archive", SETTINGS.validate_python(self._settings | changes))

    def wrong(self, method: str, **words: object) -> None:
        """From now on, this is what goes wrong."""
        self.way.faults = [Fault(method, **words)]  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """What the store holds in truth."""
        self.way.faults = []
        return [entry.name for entry in self.store.list("")]


@pytest.fixture(scope="module")
def apache() -> Iterator[webdav.WebDavServer]:
    with webdav.serving() as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[s3.S3Server]:
    with s3.serving() as server:
        yield server


@pytest.fixture(params=["webdav", "s3"])
def weather(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Weather]:
    below = f"t{os.urandom(6).hex()}"
    settings: dict[str, object]
    if request.param == "webdav":
        server = request.getfixturevalue("apache")
        (server.files / below).mkdir()
        (server.files / below).chmod(0o777)
        port = server.port
        settings = {"user": webdav.USER, "password_file": str(server.password_file())}
    else:
        port = request.getfixturevalue("moto").port
        settings = {"bucket": s3.BUCKET, "prefix": below}
        settings["access_key_file"] = str(s3.key_file(tmp_path / "key"))
    with in_front_of(port) as way:
        place = {"webdav": {"url": f"{way.url}/{below}"}, "s3": {"endpoint": way.url}}
        found = Weather(request.param, way, settings | place[request.param])
        write(found.store, "file")
        yield found
        found.store.close()


# What is about WebDAV alone.
DAV = pytest.mark.parametrize("weather", ["webdav"], indirect=True)


def write(store: DataStore, path: str, content: bytes = CONTENT) -> None:
    with store.create(path) as target:
        for at in range(0, len(content), 50_000):
            target.write(content[at : at + 50_000])


def ask(store: DataStore, method: str) -> None:
    """So that a request with this method is sent."""
    match method:
        case "GET":
            read(store)
        case "PUT":
            write(store, "new")
        case _:
            store.look("file")


def read(store: DataStore, offset: int = 0, version: str | None = None) -> bytes:
    with store.open("file", offset, version) as source:
        parts = []
        while data := source.read(50_000):
            parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (401, StoreRefused, False), (403, StoreRefused, False), (423, StoreUnavailable, True),
        (429, StoreUnavailable, True), (500, StoreUnavailable, True),
        (502, StoreUnavailable, True), (503, StoreUnavailable, True),
        (507, StoreFull, False), (400, StoreFailed, False), (418, StoreFailed, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("writing", [False, True])
def test_what_a_status_means(
    weather: Weather, status: int, kind: type[StoreFailed], transient: bool, writing: bool
) -> None:
    weather.wrong("PUT" if writing else "GET", status=status, headers={"Retry-After": "7"})
    with pytest.raises(StoreFailed) as caught:
        write(weather.store, "new") if writing else read(weather.store)
    assert type(caught.value) is kind
    assert caught.value.transient is transient
    path = "new" if writing else "file"
    assert str(caught.value).startswith(f"store archive: {path}: {status}")
    if isinstance(caught.value, StoreUnavailable):
        assert caught.value.retry_after_seconds == 7
    assert weather.names() == ["file"]


def test_404_is_a_file_that_is_not_there(weather: Weather) -> None:
    weather.way.faults = [Fault(method, status=404) for method in ("GET", "HEAD", "PROPFIND")]
    with pytest.raises(FileNotFoundError, match="archive:file"):
        read(weather.store)


def test_reading_is_cut_in_the_middle_and_goes_on(weather: Weather) -> None:
    weather.wrong("GET", cut_answer=120_000, times=1, when=lambda asked: "file" in asked.path)
    version = weather.store.look("file").version
    got = b""

    def read_on() -> None:
        nonlocal got
        with weather.store.open("file", len(got), version) as source:
            while data := source.read(10_000):
                got += data

    with pytest.raises(StoreUnavailable, match="broke") as caught:
        read_on()
    assert caught.value.transient
    assert got == CONTENT[: len(got)]
    assert 100_000 < len(got) <= 120_000
    read_on()
    assert got == CONTENT


def test_writing_is_cut_in_the_middle(weather: Weather) -> None:
    weather.wrong("PUT", cut_request=10_000)
    with pytest.raises(StoreUnavailable) as caught:
        write(weather.store, "new", os.urandom(8_000_000))
    assert caught.value.transient
    assert weather.names() == ["file"]
    write(weather.store, "new")


@pytest.mark.parametrize("method", ["GET", "PUT", "look"])
def test_a_server_that_is_too_slow(weather: Weather, method: str) -> None:
    weather.wrong(LOOKING[weather.kind] if method == "look" else method, delay_seconds=20, times=1)
    store = weather.opened(timeout_seconds=0.3)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"no answer within 0.3 s"):
        ask(store, method)
    assert time.monotonic() - begun < 3
    store.close()


def test_a_range_that_is_ignored(weather: Weather) -> None:
    weather.wrong("GET", without=("Range",))
    with pytest.raises(StoreFailed, match="ignores Range"):
        read(weather.store, 1000)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nothing_is_followed_to_another_host(weather: Weather, status: int) -> None:
    with in_front_of(1) as other:
        headers = {"Location": f"{other.url}/file", "x-amz-bucket-region": "elsewhere-1"}
        for method in ("GET", "PUT"):
            weather.wrong(method, status=status, headers=headers)
            with pytest.raises(StoreFailed, match=f"{status}|leads elsewhere"):
                write(weather.store, "new") if method == "PUT" else read(weather.store)
        assert other.asked == []


def test_no_proxy_of_the_environment_is_used(
    weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_front_of(1) as other:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, other.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("AWS_PROFILE", "of-somebody-else")
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        store = weather.opened()
        assert read(store) == CONTENT
        store.close()
        assert other.asked == []


def test_a_closed_connection_that_was_kept_is_opened_anew(weather: Weather) -> None:
    assert read(weather.store) == CONTENT
    weather.wrong("GET", lose=True, times=1)
    if weather.kind == "webdav":
        assert read(weather.store) == CONTENT
    else:
        with pytest.raises(StoreUnavailable):
            read(weather.store)


@pytest.mark.parametrize("size", [1000, 9_000_000])
def test_the_last_answer_is_lost_and_the_file_is_there(weather: Weather, size: int) -> None:
    content = os.urandom(size)

    def is_last(asked: Asked) -> bool:
        return asked.method != "POST" or "uploadId" in asked.path

    last = "MOVE" if weather.kind == "webdav" else "PUT" if size < 8_000_000 else "POST"
    weather.wrong(last, lose=True, times=1, when=is_last)
    write(weather.store, "new", content)
    assert weather.store.look("new").size_bytes == size
    assert weather.names() == ["file", "new"]


def test_a_server_that_is_away(weather: Weather) -> None:
    port = webdav.free_port()
    where = {"webdav": "url", "s3": "endpoint"}[weather.kind]
    store = weather.opened(**{where: f"http://127.0.0.1:{port}/"})
    with pytest.raises(StoreUnavailable):
        store.check()
    store.close()


def test_no_credential_is_shown(weather: Weather, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = [repr(weather.store), str(vars(weather.store)), repr(weather.opened())]
    said += [repr(vars(one)) for one in vars(weather.store).values() if hasattr(one, "__dict__")]
    for status in (302, 400, 401, 403, 404, 423, 500, 503, 507):
        for method in ("GET", "PUT", "HEAD", "PROPFIND"):
            weather.wrong(method, status=status, body=webdav.PASSWORD.encode() + s3.SECRET.encode())
            try:
                weather.store.look("file")
                read(weather.store)
                write(weather.store, "new")
            except (StoreFailed, OSError) as error:
                said.append("".join(traceback.format_exception(error)))
                said.append(repr(error.__dict__))
    said.append(caplog.text)
    for secret in (webdav.PASSWORD, s3.SECRET, "QmVhcmVy", "YnJpZGdlOmEg"):
        assert not [text for text in said if secret in text]


def entry(name: str, size: str = "5", extra: str = "") -> str:
    return (
        f"<D:response><D:href>{name}</D:href><D:propstat><D:prop><D:resourcetype/>"
        f"<D:getcontentlength>{size}</D:getcontentlength>{extra}</D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


def answer(*entries: str, before: str = "") -> bytes:
    text = f'<?xml version="1.0"?>{before}<D:multistatus xmlns:D="DAV:">{"".join(entries)}'
    return f"{text}</D:multistatus>".encode()


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 50}">' for n in range(12))
    + "]>"
)


@DAV
@pytest.mark.parametrize(
    "body",
    [
        answer(entry("BASE/a%2Fb")), answer(entry("BASE/..")), answer(entry("BASE/%2e%2e")),
        answer(entry("BASE/a%00b")), answer(entry("BASE/a"), entry("BASE/a")),
        answer(entry("/elsewhere/a")), answer(entry("BASE/a/b")), answer(entry("relative")),
        answer(entry("BASE/a", "-1")), answer(entry("BASE/a", "x")), answer(entry("BASE/a", "")),
        answer(entry("BASE/a"))[:-20], b"", b"<html>", b"not xml", answer("<D:response/>"),
        answer(entry("&l;"), before=BOMB), answer(before='<!DOCTYPE x SYSTEM "file:///etc/passwd">'),
        answer("<a>" * 100_000), answer(entry("BASE/" + "a" * 2_000_000)),
    ],
    ids=range(20),
)  # fmt: skip
def test_a_list_that_cannot_be_true(weather: Weather, body: bytes) -> None:
    base = next(asked.path for asked in weather.way.asked).rpartition("/")[0].encode()
    weather.wrong("PROPFIND", status=207, body=body.replace(b"BASE", base))
    begun = time.monotonic()
    with pytest.raises(StoreAnswerUnreadable) as caught:
        weather.store.list("")
    assert time.monotonic() - begun < 2
    assert "\0" not in str(caught.value)
    assert not caught.value.transient


@DAV
def test_a_list_without_an_end_is_read_to_its_limit(weather: Weather) -> None:
    base = next(asked.path for asked in weather.way.asked).rpartition("/")[0]
    body = answer(*[entry(f"{base}/{number}") for number in range(5000)])
    weather.wrong("PROPFIND", status=207, body=body[: len(body) // 2], cut_answer=10_000_000)
    assert len(weather.store.list("", 10)) == 11


@DAV
def test_a_server_that_replaces_although_it_must_not(weather: Weather) -> None:
    weather.wrong("MOVE", status=204)
    with pytest.raises(StoreAnswerUnreadable, match="replaced"):
        write(weather.store, "new")


@DAV
def test_a_server_that_loses_chunks(weather: Weather) -> None:
    weather.wrong("PUT", status=201)
    with pytest.raises((StoreFailed, FileNotFoundError)):
        write(weather.store, "new")
    assert weather.names() == ["file"]


@DAV
def test_an_answer_that_is_another_part_or_another_version(weather: Weather) -> None:
    version = weather.store.look("file").version
    headers = {"Content-Range": "bytes 0-4/5", "ETag": version}
    weather.wrong("GET", status=206, headers=headers, body=b"12345")
    with pytest.raises(StoreAnswerUnreadable, match="another part"):
        read(weather.store, 3)
    weather.wrong("GET", status=200, headers={"ETag": '"other"'}, body=b"12345")
    with pytest.raises(StoreChanged):
        read(weather.store, 0, version)
    weather.wrong("GET", status=200, headers={"Content-Encoding": "gzip"}, body=b"12345")
    with pytest.raises(StoreAnswerUnreadable, match="encoded"):
        read(weather.store)


def test_what_is_raised_inside_keeps_its_type(weather: Weather) -> None:
    for made in (weather.store.open("file"), weather.store.create("new")):
        assert isinstance(made, AbstractContextManager)
        with pytest.raises(KeyError), made:
            raise KeyError
