"""The Python client, against the API in this process."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from slurmbridge import client as client_module
from slurmbridge.client import Client
from slurmbridge.errors import (
    BodyTooLarge,
    BridgeUnreachable,
    DatabaseUnavailable,
    IllegalTransition,
    InvalidProcess,
    RequestError,
    SiteError,
    SlurmBridgeError,
    Unauthenticated,
    UnknownProcess,
)
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.model import ListedImage, Process
from slurmbridge.spec import parse_spec
from slurmbridge.store import Change, ProcessStore, Roster, RunnerStatus
from tests.support.front import CAPABILITY, IMAGE, NOW, SPEC, URL, Front, opened


@pytest.fixture
def front() -> Iterator[Front]:
    with opened() as found:
        yield found


@pytest.fixture
def client(front: Front) -> Iterator[Client]:
    with front.client() as found:
        yield found


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens in each sleep; without anything left to happen, the test fails."""
    happenings: list[Callable[[], None]] = []
    monkeypatch.setattr("time.sleep", lambda _seconds: happenings.pop(0)())
    return happenings


def answering(*answers: httpx.Response | Exception) -> Client:
    remaining = list(answers)

    def answer(_request: httpx.Request) -> httpx.Response:
        found = remaining.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return Client(URL, "sb_x", http=httpx.Client(transport=httpx.MockTransport(answer)))


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json"},
        json={"status": status, "code": code, "detail": "as said"},
    )


def nothing() -> None:
    pass


def test_what_is_submitted_is_what_is_read(client: Client) -> None:
    spec = parse_spec(SPEC | {"command": ["sh", "-c", "$(x) 'ü' \n"], "labels": {"a": "b"}})
    process = client.submit(spec)
    assert process.spec == spec
    assert client.get(process.id) == process
    assert client.submit(SPEC).spec == parse_spec(SPEC)


def test_a_refusal_is_the_same_error_as_in_the_bridge(client: Client) -> None:
    with pytest.raises(InvalidProcess, match="no image 'missing'") as caught:
        client.submit(SPEC | {"image": "missing"})
    assert caught.value.fields == (("image", "no image 'missing' is recorded (recorded: python)"),)


def test_what_no_bridge_takes_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidProcess, match="UTF-8"):
        answering().submit(SPEC | {"command": ["\ud800"]})
    with pytest.raises(BodyTooLarge):
        answering().submit(SPEC | {"command": ["x" * 120_000] * 10})


@pytest.mark.parametrize(
    "process_id", ["x", "", "..", "a/b", "../images", "\0", "a b?c#d", "\udcff"]
)
def test_an_unknown_process_is_its_error(client: Client, process_id: str) -> None:
    for ask in (client.get, client.cancel, client.log, client.events, client.script):
        with pytest.raises(UnknownProcess):
            ask(process_id)


def test_a_wrong_token_is_unauthenticated(front: Front) -> None:
    with front.client("sb_wrong") as client, pytest.raises(Unauthenticated):
        client.submit(SPEC)
    assert front.desk.page() == []


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ü"])
def test_a_token_that_cannot_be_one_is_not_sent_and_not_shown(token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Client(URL, token)
    assert not token or token not in str(caught.value)


def test_pages_and_iteration_show_the_newest_first(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [client.submit(SPEC | {"labels": {"n": str(n % 2)}}).id for n in range(4)][::-1]
    page = client.page(limit=3)
    assert [process.id for process in page.processes] == ids[:3]
    assert page.next == ids[2]
    assert [process.id for process in client.page(before=page.next).processes] == ids[3:]
    assert [process.id for process in client.iterate(label=("n", "1"))] == [ids[0], ids[2]]
    assert client.page(states=[ProcessState.RUNNING]).processes == ()
    whole = client.page
    monkeypatch.setattr(client, "page", lambda **query: whole(**query | {"limit": 1}))
    assert [process.id for process in client.iterate()] == ids


def test_canceling_is_idempotent_until_it_ended_otherwise(front: Front, client: Client) -> None:
    process_id = client.submit(SPEC).id
    assert client.cancel(process_id) == client.cancel(process_id)
    other = client.submit(SPEC).id
    front.end(other)
    with pytest.raises(IllegalTransition):
        client.cancel(other)


def test_the_rest_of_the_bridge_is_reached(front: Front, client: Client) -> None:
    process_id = client.submit(SPEC).id
    assert client.script(process_id) is None
    assert [event.source for event in client.events(process_id)] == ["api"]
    assert client.capability() == CAPABILITY
    assert client.images() == [ListedImage(**IMAGE.model_dump(), runs=True)]
    state = ProcessState.QUEUED
    change = Change(
        process_id,
        state,
        state,
        Phase.ACCEPTED,
        Phase.SUBMITTING,
        "test",
        "x",
        {"script": "text\n"},
    )
    ProcessStore(front.database).apply([change], runner=None, now=NOW)
    assert client.script(process_id) == "text\n"


def test_readiness_comes_with_its_problems(front: Front, client: Client) -> None:
    assert not client.ready()
    assert client.problems() == ("no Runner is alive: accepted Processes wait",)
    Roster(front.database).enter(RunnerStatus("r", "h", "fake", NOW, None))
    assert client.ready()


def test_waiting_sees_every_change_once(
    front: Front, client: Client, sleeps: list[Callable[[], None]]
) -> None:
    process_id = client.submit(SPEC).id
    sleeps += [nothing, nothing, lambda: front.end(process_id, exit_code=0)]
    seen: list[Process] = []
    process = client.wait(process_id, on_change=seen.append)
    assert [entry.state for entry in seen] == ["QUEUED", "COMPLETE"]
    assert process == seen[-1]
    assert sleeps == []


def test_waiting_ends_at_its_deadline(client: Client) -> None:
    process_id = client.submit(SPEC).id
    with pytest.raises(TimeoutError, match=process_id):
        client.wait(process_id, timeout_seconds=0)


def test_waiting_outlasts_a_bridge_that_starts_again(
    client: Client, front: Front, sleeps: list[Callable[[], None]]
) -> None:
    process_id = client.submit(SPEC).id
    front.end(process_id)
    document = client.get(process_id).model_dump_json()
    sleeps += [nothing] * 3
    waiting = answering(
        httpx.ConnectError("refused"),
        httpx.Response(502, text="Bad Gateway"),
        problem(503, "database-unavailable"),
        httpx.Response(200, text=document),
    )
    assert waiting.wait(process_id).id == process_id
    assert sleeps == []


def test_waiting_gives_up_in_the_end(sleeps: list[Callable[[], None]]) -> None:
    sleeps += [nothing] * client_module.PATIENCE
    with pytest.raises(BridgeUnreachable):
        answering(*[httpx.ConnectError("refused")] * 10).wait("x")
    assert sleeps == []


def test_waiting_does_not_repeat_what_is_refused() -> None:
    with pytest.raises(UnknownProcess):
        answering(problem(404, "unknown-process")).wait("x")


def test_a_followed_log_ends_with_the_process(
    front: Front, client: Client, sleeps: list[Callable[[], None]]
) -> None:
    process_id = client.submit(SPEC).id
    front.print(process_id, b"one\n")

    def end() -> None:
        front.print(process_id, b"\xfftwo", offset=4)
        front.end(process_id)

    sleeps += [nothing, end]
    assert list(client.follow_log(process_id)) == [b"one\n", b"\xfftwo"]
    assert sleeps == []
    assert list(client.follow_log(process_id, offset=5)) == [b"two"]
    assert client.log(process_id, "stdout", 4) == (b"\xfftwo", 8, ProcessState.COMPLETE)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError("gone"),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"id": "x"}),
        httpx.Response(301, headers={"Location": "https://other.test"}),
        httpx.Response(404, text="nginx"),
        httpx.Response(
            500, headers={"Content-Type": "application/problem+json"}, text="not a document"
        ),
    ],
    ids=repr,
)
def test_what_is_not_the_bridge_is_unreachable(answer: httpx.Response | Exception) -> None:
    with pytest.raises(BridgeUnreachable, match=r"bridge\.test"):
        answering(answer).get("x")


def test_a_log_without_its_headers_is_not_the_bridge() -> None:
    with pytest.raises(BridgeUnreachable):
        answering(httpx.Response(200, content=b"x")).log("x")


@pytest.mark.parametrize("url", ["", "bridge.test", "ftp://bridge.test", "http://[", "http://a b"])
def test_an_address_that_is_none_is_unreachable(url: str) -> None:
    with Client(url, "sb_x") as client, pytest.raises(BridgeUnreachable):
        client.get("x")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "database-unavailable", DatabaseUnavailable),
        (500, "internal", SlurmBridgeError),
        (404, "not-found", RequestError),
        (422, "a-code-of-tomorrow", RequestError),
        (503, "a-code-of-tomorrow", SiteError),
    ],
)
def test_a_problem_leads_to_its_class(status: int, code: str, kind: type[SlurmBridgeError]) -> None:
    with pytest.raises(SlurmBridgeError, match="as said") as caught:
        answering(problem(status, code)).get("x")
    assert type(caught.value) is kind
