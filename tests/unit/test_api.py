"""The HTTP API, spoken to in this process."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from slurmbridge import errors
from slurmbridge.api import problems, routes
from slurmbridge.errors import SlurmBridgeError
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.spec import SPEC_BYTES_LIMIT
from slurmbridge.store import Change, ProcessStore, Roster, RunnerStatus
from tests.support.front import IMAGE, NOW, SPEC, Front, opened

PROCESSES = "/v1/processes"


@pytest.fixture
def front() -> Iterator[Front]:
    with opened() as found:
        yield found


@pytest.fixture
def http(front: Front) -> Iterator[httpx.Client]:
    with front.http() as client:
        yield client


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["code"] == code
    assert found["type"] == f"urn:slurmbridge:problem:{code}"
    assert found["title"]
    assert found["detail"]
    return found


def locations(found: dict[str, Any]) -> set[str]:
    return {mistake["location"] for mistake in found["errors"]}


def submit(http: httpx.Client, **changes: Any) -> str:
    response = http.post(PROCESSES, json=SPEC | changes)
    assert response.status_code == 201, response.text
    process_id: str = response.json()["id"]
    return process_id


def subclasses(root: type[SlurmBridgeError]) -> set[type[SlurmBridgeError]]:
    found = {root}.union(*(subclasses(kind) for kind in root.__subclasses__()))
    return {kind for kind in found if kind.__module__.startswith("slurmbridge")}


def test_every_error_has_a_row_of_its_own() -> None:
    assert subclasses(errors.SlurmBridgeError) == set(problems.STATUS_OF)


def test_statuses_tell_who_must_act() -> None:
    for kind, status in problems.STATUS_OF.items():
        if issubclass(kind, errors.RequestError):
            assert 400 <= status < 500, kind
        if issubclass(kind, errors.SiteError) or kind.transient:
            assert status >= 500, kind


def test_an_error_without_a_row_has_the_status_of_its_base() -> None:
    assert problems.status_of(type("New", (errors.IllegalTransition,), {})) == 409


def test_a_submitted_process_is_where_the_location_says(http: httpx.Client) -> None:
    response = http.post(PROCESSES, json=SPEC)
    assert response.status_code == 201
    assert response.json()["state"] == "QUEUED"
    assert response.json()["submitted_by"] == "tester"
    assert http.get(response.headers["Location"]).json() == response.json()


def test_shell_metacharacters_and_other_scripts_arrive_byte_for_byte(http: httpx.Client) -> None:
    command = [
        "sh",
        "-c",
        "echo '$(rm -rf /)' \"`id`\" | tee & ; \n\t\\ ünï 世界 \x1b[31m",
        "--",
        "-x",
        "",
    ]
    process_id = submit(http, command=command)
    assert http.get(f"{PROCESSES}/{process_id}").json()["spec"]["command"] == command


WRONG_SPECS: list[tuple[dict[str, Any], str]] = [
    ({"image": "missing"}, "image"),
    ({"image": "../python"}, "image"),
    ({"partition": "missing"}, "partition"),
    ({"partition": "-short"}, "partition"),
    ({"account": "missing"}, "account"),
    ({"account": "a b"}, "account"),
    ({"colour": "red"}, "colour"),
    ({"command": []}, "command"),
    ({"command": [""]}, ""),
    ({"command": "ls"}, "command"),
    ({"command": ["a\0b"]}, "command.0"),
    ({"command": ["x" * 131_072]}, "command.0"),
    ({"resources": {"cpus_per_task": 0}}, "resources.cpus_per_task"),
    ({"resources": {"cpus_per_task": -1}}, "resources.cpus_per_task"),
    ({"resources": {"cpus_per_task": 5}}, "resources.cpus_per_task"),
    ({"resources": {"cpus_per_task": "4"}}, "resources.cpus_per_task"),
    ({"resources": {"cpus_per_task": 1.5}}, "resources.cpus_per_task"),
    ({"resources": {"cpus_per_task": 10**40}}, "resources.cpus_per_task"),
    ({"resources": {"memory_mib": 8001}}, "resources.memory_mib"),
    ({"resources": {"memory_mib": 0}}, "resources.memory_mib"),
    ({"resources": {"nodes": 2}}, "resources.nodes"),
    ({"time_limit_minutes": 121}, "time_limit_minutes"),
    ({"time_limit_minutes": 0}, "time_limit_minutes"),
    ({"time_limit_minutes": True}, "time_limit_minutes"),
    ({"inputs": [{"source": "other:a"}]}, "inputs.0.source"),
    ({"inputs": [{"source": "results:a"}]}, "inputs.0.source"),
    ({"outputs": {"destination": "data:a"}}, "outputs.destination"),
    ({"inputs": [{"source": "data:a"}, {"source": "data:b/a"}]}, ""),
    ({"environment": {"SLURM_JOB_ID": "1"}}, "environment"),
    ({"labels": {"": "x"}}, "labels"),
    ({"trace": "everything"}, "trace"),
]


@pytest.mark.parametrize(("changes", "location"), WRONG_SPECS)
def test_what_cannot_run_here_is_refused_with_its_location(
    front: Front, http: httpx.Client, changes: dict[str, Any], location: str
) -> None:
    response = http.post(PROCESSES, json=SPEC | changes)
    found = problem(response, 422, "invalid-process")
    assert any(place.startswith(location) for place in locations(found))
    assert front.desk.page() == []


@pytest.mark.parametrize(
    "path",
    ["a b", "a'b", 'a"b', "a\nb", "a\tb", "-a", "a/-b", "/a", "../a", "a//b", "a/../b", "", "a\0b",
     "a:b", "a,b", "a\u2028b", "a\\b", "$HOME", "*", "a" * 2000],
)  # fmt: skip
def test_hostile_paths_are_refused(front: Front, http: httpx.Client, path: str) -> None:
    changes = {"inputs": [{"source": f"data:{path}"}]}
    found = problem(http.post(PROCESSES, json=SPEC | changes), 422, "invalid-process")
    assert locations(found) == {"inputs.0.source"}
    assert front.desk.page() == []


def test_all_that_is_wrong_is_said_at_once(http: httpx.Client) -> None:
    changes = {"image": "missing", "account": "missing", "time_limit_minutes": 999}
    found = problem(http.post(PROCESSES, json=SPEC | changes), 422, "invalid-process")
    assert locations(found) == {"image", "account", "time_limit_minutes"}


UNREADABLE_BODIES = {
    "empty": b"",
    "not JSON": b"image = 'python'",
    "cut": b'{"image": "python"',
    "two documents": b"{} {}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "not UTF-8": b'{"image": "\xff"}',
    "a lone surrogate": b'{"image": "python", "command": ["\\ud800"]}',
    "a lone surrogate as a key": b'{"image": "python", "command": ["a"], "\\udfff": 1}',
    "a lone surrogate in UTF-8": b'{"image": "python", "command": ["\xed\xa0\x80"]}',
    "a NUL": b'{"image": "python", "command": ["\\u0000"]}',
    "a NUL outside": b'{"image": "python"}\0',
    "a NUL in a key": b'{"image": "python", "command": ["a"], "a\\u0000": 1}',
    "deep lists": b"[" * 500_000,
    "deep lists that end": b'{"command": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "a long number": b'{"time_limit_minutes": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"image": "python", "command": ["a"], "time_limit_minutes": NaN}',
    "infinity": b'{"image": "python", "command": ["a"], "time_limit_minutes": 1e999}',
    "a byte order mark": b'\xef\xbb\xbf{"image": "python", "command": ["a"]}',
    "UTF-16": '{"image": "python", "command": ["a"]}'.encode("utf-16"),
    "another wrong value twice": b'{"image": "python", "image": "missing", "command": ["a"]}',
}


@pytest.mark.parametrize("body", UNREADABLE_BODIES.values(), ids=UNREADABLE_BODIES.keys())
def test_a_body_that_is_no_specification_is_refused(
    front: Front, http: httpx.Client, body: bytes
) -> None:
    problem(http.post(PROCESSES, content=body), 422, "invalid-process")
    assert front.desk.page() == []


def test_ten_megabytes_are_refused(front: Front, http: httpx.Client) -> None:
    body = b'{"image": "' + b"x" * 10_000_000 + b'"}'
    problem(http.post(PROCESSES, content=body), 413, "body-too-large")
    assert front.desk.page() == []


def test_the_limit_itself_is_read(http: httpx.Client) -> None:
    body = json.dumps(SPEC).encode().ljust(SPEC_BYTES_LIMIT)
    assert http.post(PROCESSES, content=body).status_code == 201
    problem(http.post(PROCESSES, content=body + b" "), 413, "body-too-large")


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"10")]], ids=["none", "a lie"])
def test_an_endless_body_is_not_read_to_its_end(
    front: Front, headers: list[tuple[bytes, bytes]]
) -> None:
    sent: list[dict[str, Any]] = []
    pieces = 0

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        pieces += 1
        return {"type": "http.request", "body": b" " * 65536, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": PROCESSES, "raw_path": PROCESSES.encode(), "query_string": b"",
        "root_path": "", "server": ("test", 80), "client": ("test", 1),
        "headers": [(b"authorization", f"Bearer {front.token}".encode()), *headers],
    }  # fmt: skip
    asyncio.run(front.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert pieces == SPEC_BYTES_LIMIT // 65536 + 1


@pytest.mark.parametrize("token", [None, "wrong", "sb_", "\xff"], ids=ascii)
def test_without_a_known_token_there_is_one_problem_and_nothing_stored(
    front: Front, token: str | None
) -> None:
    with front.http(None) as http:
        http.headers.encoding = "latin-1"
        if token is not None:
            http.headers["Authorization"] = f"Bearer {token}"
        for route in routes.router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                path = route.path.format(process_id="x")
                response = http.request(method, path, content=b"x" * 2_000_000)
                problem(response, 401, "unauthenticated")
                assert response.headers["WWW-Authenticate"] == "Bearer"
    assert front.desk.page() == []


def test_another_scheme_is_no_token(front: Front) -> None:
    with front.http(None) as http:
        response = http.get(PROCESSES, headers={"Authorization": f"Basic {front.token}"})
        problem(response, 401, "unauthenticated")


def test_health_and_the_documentation_are_open(front: Front) -> None:
    with front.http(None) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/docs").status_code == 200
        assert http.get("/openapi.json").status_code == 200


def test_readiness_says_what_is_missing(front: Front) -> None:
    with front.http(None) as http:
        found = problem(http.get("/readyz"), 503, "not-ready")
        assert found["problems"] == ["no Runner is alive: accepted Processes wait"]
        Roster(front.database).enter(RunnerStatus("r", "h", "fake", NOW, None))
        assert http.get("/readyz").json() == {"status": "ok"}
        with front.database.write() as connection:
            connection.execute(text("DELETE FROM helper"))
        found = problem(http.get("/readyz"), 503, "not-ready")
        assert "the sealing helpers are not built" in found["problems"][0]


def test_pages_lead_to_each_other(http: httpx.Client) -> None:
    ids = [submit(http) for _ in range(5)][::-1]
    first = http.get(PROCESSES, params={"limit": 2}).json()
    assert [process["id"] for process in first["processes"]] == ids[:2]
    second = http.get(PROCESSES, params={"limit": 3, "before": first["next"]}).json()
    assert [process["id"] for process in second["processes"]] == ids[2:]
    assert second["next"] is None


def test_processes_are_found_by_state_and_label(front: Front, http: httpx.Client) -> None:
    labelled = submit(http, labels={"a.b/c": "x=y z"})
    ended = submit(http)
    front.end(ended)
    found = http.get(PROCESSES, params={"label": "a.b/c=x=y z"}).json()["processes"]
    assert [process["id"] for process in found] == [labelled]
    assert http.get(PROCESSES, params={"label": "a.b/c=x"}).json()["processes"] == []
    found = http.get(PROCESSES, params={"state": ["COMPLETE", "CANCELED"]}).json()["processes"]
    assert [process["id"] for process in found] == [ended]
    both = http.get(PROCESSES, params={"state": ["COMPLETE", "QUEUED"]}).json()["processes"]
    assert len(both) == 2


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "state=DONE", "label=x", 'label=a"b=c', "label==c",
     "label=a=%00", "before=", "before=%00", "before=a%20b"],
)  # fmt: skip
def test_a_wrong_query_is_one_problem(http: httpx.Client, query: str) -> None:
    found = problem(http.get(f"{PROCESSES}?{query}"), 422, "invalid-request")
    assert next(iter(locations(found))).startswith(f"query.{query.partition('=')[0]}")


def test_canceling_twice_is_canceling_once(http: httpx.Client) -> None:
    process_id = submit(http)
    for _ in range(2):
        response = http.post(f"{PROCESSES}/{process_id}/cancel")
        assert response.status_code == 202
        assert response.json()["state"] == "CANCELED"
    events = http.get(f"{PROCESSES}/{process_id}/events").json()["events"]
    assert [event["state"] for event in events] == ["QUEUED", "CANCELED"]


def test_what_has_ended_cannot_be_canceled(front: Front, http: httpx.Client) -> None:
    process_id = submit(http)
    front.end(process_id)
    response = http.post(f"{PROCESSES}/{process_id}/cancel")
    problem(response, 409, "illegal-transition")


@pytest.mark.parametrize("process_id", ["x", "%00", "%2e%2e", "a%0ab", "%ff", "1" * 3000, "'; --"])
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("GET", "/log"), ("GET", "/script"), ("GET", "/events"), ("POST", "/cancel")],
)
def test_an_unknown_process_is_one_problem(
    http: httpx.Client, process_id: str, method: str, rest: str
) -> None:
    response = http.request(method, f"{PROCESSES}/{process_id}{rest}")
    problem(response, 404, "unknown-process")


def test_the_log_is_read_piece_by_piece(front: Front, http: httpx.Client) -> None:
    process_id = submit(http)
    front.print(process_id, b"\xff\0bytes\r\n")
    path = f"{PROCESSES}/{process_id}/log"
    response = http.get(path, params={"limit": 4})
    assert response.content == b"\xff\0by"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["X-Next-Offset"] == "4"
    assert response.headers["X-Process-State"] == "QUEUED"
    response = http.get(path, params={"offset": 4})
    assert response.content == b"tes\r\n"
    response = http.get(path, params={"offset": 9})
    assert (response.content, response.headers["X-Next-Offset"]) == (b"", "9")
    assert http.get(path, params={"stream": "stderr"}).content == b""
    assert http.get(path, params={"offset": (1 << 63) - 1}).content == b""


@pytest.mark.parametrize(
    "query", ["stream=other", "offset=-1", "offset=9223372036854775808", "limit=0", "limit=1048577"]
)
def test_a_wrong_log_query_is_one_problem(http: httpx.Client, query: str) -> None:
    response = http.get(f"{PROCESSES}/{submit(http)}/log?{query}")
    problem(response, 422, "invalid-request")


def test_the_script_is_there_once_it_is_rendered(front: Front, http: httpx.Client) -> None:
    process_id = submit(http)
    path = f"{PROCESSES}/{process_id}/script"
    problem(http.get(path), 404, "script-not-ready")
    state = ProcessState.QUEUED
    change = Change(
        process_id,
        state,
        state,
        Phase.ACCEPTED,
        Phase.SUBMITTING,
        "test",
        "x",
        {"script": "#!/bin/sh\n"},
    )
    ProcessStore(front.database).apply([change], runner=None, now=NOW)
    assert http.get(path).text == "#!/bin/sh\n"


def test_what_the_site_offers_is_shown(http: httpx.Client) -> None:
    assert http.get("/v1/capabilities").json()["partitions"][0]["name"] == "short"
    listed = IMAGE.model_dump(mode="json") | {"runs": True}
    assert http.get("/v1/images").json()["images"] == [listed]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1/processes/", 404, "not-found"),
        ("GET", "/v1/processes/x/y/z", 404, "not-found"),
        ("DELETE", "/v1/processes", 405, "method-not-allowed"),
        ("PUT", "/v1/images", 405, "method-not-allowed"),
    ],
)
def test_routes_that_are_not_there_are_problems(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    response = http.request(method, path)
    problem(response, status, code)
    assert ("Allow" in response.headers) == (status == 405)


def test_a_bug_is_answered_with_a_correlation_id_and_nothing_else(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(front.desk, "images", broken)
    with front.http() as http:
        response = http.get("/v1/images")
    found = problem(response, 500, "internal")
    assert "secret" not in response.text
    assert found["correlation_id"] in caplog.text
    assert "secret detail" in caplog.text


def test_a_database_that_is_away_is_a_transient_problem(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise errors.DatabaseUnavailable("the database does not answer")

    monkeypatch.setattr(front.desk, "images", broken)
    with front.http() as http:
        response = http.get("/v1/images")
    problem(response, 503, "database-unavailable")
    assert response.headers["Retry-After"] == "5"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for entry in value.values():
            yield from references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from references(entry)


def test_the_openapi_document_is_whole(front: Front) -> None:
    document = front.app.openapi()
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    body = document["paths"][PROCESSES]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][name]["required"] == ["image", "command"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
