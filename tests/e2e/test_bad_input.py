"""Bad input gets one clear error; nothing is stored, nothing reaches Slurm."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import SMALL
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]
GOOD = {**SMALL, "command": ["true"]}


@pytest.fixture(scope="module")
def http(url: str, token: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as found:
        yield found


@pytest.fixture
def nothing_happens(bridge: Cluster, http: httpx.Client) -> Iterator[None]:
    """The newest Process and the newest job are the same before and after."""

    def known() -> tuple[list[str], int]:
        newest = http.get("/v1/processes", params={"limit": 1}).json()["processes"]
        jobs = bridge.must("login", "squeue", "--me", "--states=all", "-ho", "%i")
        return [process["id"] for process in newest], max(map(int, jobs.split()), default=0)

    before = known()
    yield
    assert known() == before


BAD: dict[str, dict[str, Any]] = {
    "unknown image": {"image": "nothing"},
    "unknown partition": {"partition": "nowhere"},
    "unknown account": {"account": "nobody"},
    "unknown field": {"walltime": 5},
    "negative memory": {"resources": {"memory_mib": -1}},
    "no memory": {"resources": {"memory_mib": 0}},
    "too much memory": {"resources": {"memory_mib": 4001}},
    "no cores": {"resources": {"cpus_per_task": 0}},
    "too many cores": {"resources": {"cpus_per_task": 5}},
    "several nodes": {"resources": {"nodes": 2}},
    "a limit above the partition's": {"time_limit_minutes": 11},
    "an unknown store": {"inputs": [{"source": "nowhere:x"}]},
    "a store that cannot be read": {"inputs": [{"source": "results:x"}]},
    "a store that cannot be written": {"outputs": {"destination": "data:x"}},
    "a path with a space": {"inputs": [{"source": "data:a b"}]},
    "a path with a quote": {"inputs": [{"source": "data:a'b"}]},
    "a path with a newline": {"code": {"source": "code:a\nb"}},
    "a path with a leading dash": {"code": {"source": "code:-rf"}},
    "a path that climbs": {"inputs": [{"source": "data:../contexts"}]},
    "a path that is not UTF-8": {"inputs": [{"source": "data:\udcff"}]},
    "a newline in a directive": {"account": "research\n#SBATCH --wrap=id"},
    "a NUL in an argument": {"command": ["a\0b"]},
}


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_specification_is_one_problem(http: httpx.Client, name: str) -> None:
    body = json.dumps({**GOOD, **BAD[name]})
    answer = http.post("/v1/processes", content=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert "\n" not in problem["detail"]
    assert len(problem["errors"] or [1]) == 1


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"image": "python"}'])
def test_what_is_no_specification_is_one_problem(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/processes", content=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.usefixtures("nothing_happens")
def test_a_body_of_ten_megabytes_is_refused(http: httpx.Client) -> None:
    body = json.dumps({**GOOD, "labels": {"x": "y" * 10_000_000}})
    answer = http.post("/v1/processes", content=body)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body-too-large"


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic eDp5"])
def test_without_a_known_token_nothing_is_accepted(url: str, header: str | None) -> None:
    headers = {"Authorization": header} if header is not None else {}
    answer = httpx.post(f"{url}/v1/processes", json=GOOD, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("command", ["submit", "render"])
@pytest.mark.parametrize("name", ["unknown image", "unknown partition", "a path with a newline"])
def test_the_command_line_says_it_in_one_sentence_and_ends_with_2(
    bridge: Cluster, token: str, command: str, name: str
) -> None:
    path = f"/tmp/bad-{secrets.token_hex(4)}.json"
    bridge.write("bridge", path, json.dumps({**GOOD, **BAD[name]}).encode())
    argv = ("env", f"SLURMBRIDGE_TOKEN={token}", "slurmbridge", command, path)
    result = bridge.run("bridge", *argv)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("slurmbridge: error: ")
    assert result.stderr.count("\n") == 1
