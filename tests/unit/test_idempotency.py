"""The front door: a request that is sent again is accepted once."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from slurmbridge.client import Client
from slurmbridge.errors import BridgeUnreachable, IdempotencyConflict
from tests.support.builders import Bridge
from tests.support.front import Front, opened
from tests.support.specs import spec


@pytest.fixture
def front() -> Iterator[Front]:
    with opened() as found:
        yield found


@pytest.fixture
def client(front: Front) -> Iterator[Client]:
    with front.client() as found:
        yield found


def test_the_same_key_and_request_is_the_same_process(bridge: Bridge) -> None:
    first, new = bridge.desk.submit_once(spec(), by="alice", key="k")
    again, newer = bridge.desk.submit_once(spec(), by="alice", key="k")
    assert (new, newer) == (True, False)
    assert again == first
    assert len(bridge.desk.page()) == 1
    assert len(bridge.events(first.id)) == 1


def test_the_same_key_for_another_request_is_refused_and_changes_nothing(bridge: Bridge) -> None:
    first, _ = bridge.desk.submit_once(spec(), by="alice", key="k")
    with pytest.raises(IdempotencyConflict, match=first.id):
        bridge.desk.submit_once(spec(command=["other"]), by="alice", key="k")
    assert bridge.desk.page() == [first]


def test_what_is_compared_is_what_was_asked_and_not_how_it_was_written(bridge: Bridge) -> None:
    _, new = bridge.desk.submit_once(spec(labels={"a": "1", "b": "2"}), by="alice", key="k")
    _, newer = bridge.desk.submit_once(spec(labels={"b": "2", "a": "1"}), by="alice", key="k")
    assert (new, newer) == (True, False)


def test_a_key_belongs_to_who_used_it(bridge: Bridge) -> None:
    for name in ("alice", "bob"):
        _, new = bridge.desk.submit_once(spec(), by=name, key="k")
        assert new


def test_a_known_key_counts_although_the_image_is_gone_since(bridge: Bridge) -> None:
    first, _ = bridge.desk.submit_once(spec(), by="alice", key="k")
    with bridge.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM image")
    assert bridge.desk.submit_once(spec(), by="alice", key="k") == (first, False)


def test_of_many_at_the_same_time_one_is_accepted(bridge: Bridge) -> None:
    found: list[tuple[str, bool]] = []

    def ask() -> None:
        process, new = bridge.desk.submit_once(spec(), by="alice", key="k")
        found.append((process.id, new))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for one, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1
    assert len(bridge.desk.page()) == 1


def post(http: httpx.Client, key: str, **changes: Any) -> httpx.Response:
    body = spec(**changes).model_dump_json()
    return http.post("/v1/processes", content=body, headers={"Idempotency-Key": key})


def test_the_api_says_201_then_200_then_409(front: Front) -> None:
    with front.http() as http:
        first = post(http, "k")
        again = post(http, "k")
        other = post(http, "k", command=["other"])
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 409]
    assert first.json() == again.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert other.json()["code"] == "idempotency-conflict"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00fc".encode().decode("latin-1")])
def test_a_key_that_cannot_be_meant_is_refused(front: Front, key: str) -> None:
    with front.http() as http:
        answer = http.post(
            "/v1/processes",
            content=spec().model_dump_json(),
            headers={b"Idempotency-Key": key.encode("latin-1")},
        )
        assert answer.status_code == 422
        assert http.get("/v1/processes").json()["processes"] == []


def test_the_client_asks_again_when_an_answer_is_lost_and_is_accepted_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: Callable[..., httpx.Response] = client._http.request
    sent: list[str] = []

    def lost_once(*arguments: Any, **request: Any) -> httpx.Response:
        answer = works(*arguments, **request)
        sent.append(request["headers"]["Idempotency-Key"])
        if len(sent) == 1:
            raise httpx.ReadError("connection reset")
        return answer

    monkeypatch.setattr(client._http, "request", lost_once)
    process = client.submit(spec())
    monkeypatch.setattr(client._http, "request", works)
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert [entry.id for entry in client.page().processes] == [process.id]


def test_two_requests_of_the_client_are_two_processes(client: Client) -> None:
    assert client.submit(spec()).id != client.submit(spec()).id


def test_a_key_of_the_callers_own_counts_after_a_crash(client: Client) -> None:
    first = client.submit(spec(), idempotency_key="k")
    assert client.submit(spec(), idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        client.submit(spec(command=["other"]), idempotency_key="k")


def test_a_bridge_that_stays_away_is_said_to(client: Client, monkeypatch: Any) -> None:
    def gone(*_: Any, **__: Any) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(client._http, "request", gone)
    with pytest.raises(BridgeUnreachable):
        client.submit(spec())
