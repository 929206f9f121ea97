"""The Python client. What the bridge refuses is raised here as the same class as there."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from slurmbridge import errors
from slurmbridge.errors import (
    BodyTooLarge,
    BridgeUnreachable,
    InvalidProcess,
    RequestError,
    SiteError,
    SlurmBridgeError,
    Unauthenticated,
    UnknownProcess,
)
from slurmbridge.lifecycle import ProcessState, ReviewState
from slurmbridge.model import (
    Attestation,
    ClusterStatus,
    ComputeCapability,
    Event,
    ListedImage,
    Process,
    PublicKey,
)
from slurmbridge.spec import SPEC_BYTES_LIMIT, ProcessSpec, parse_spec
from slurmbridge.trace.report import TraceReport

# How often a question is asked again while waiting, when the bridge does not answer.
PATIENCE = 5
_RETRY_SECONDS = 1.0
_PROBLEM = "application/problem+json"
_SERVER_ERRORS = 500
_CLASSES: dict[str, type[SlurmBridgeError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SlurmBridgeError)
}

Result = TypeVar("Result")
Document = TypeVar("Document", bound=BaseModel)


class Page(BaseModel):
    """Processes, newest first. `next` is the `before` of the following page."""

    model_config = ConfigDict(frozen=True)

    processes: tuple[Process, ...]
    next: str | None


class _Events(BaseModel):
    events: list[Event]


class _Images(BaseModel):
    images: list[ListedImage]


class _Clusters(BaseModel):
    clusters: list[ClusterStatus]


class _Keys(BaseModel):
    keys: list[PublicKey]


class LogPiece(NamedTuple):
    """What a program printed. With a final state and no data, there is no more."""

    data: bytes
    next_offset: int
    state: ProcessState


class Client:
    """A connection to a bridge. Use it as a context manager, or close it.

    Every method raises Unauthenticated when the token is not known, BridgeUnreachable when the
    bridge does not answer or not as a bridge does, and what its own text says.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float = 30.0,
        http: httpx.Client | None = None,
    ) -> None:
        """Speak to the bridge at `url`. `http` replaces the connection, timeout included."""
        # The HTTP library quotes a header that it refuses, and so would show the token.
        if not re.fullmatch(r"[!-~]+", token):
            raise Unauthenticated("the token is empty or holds characters that no token has")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        # A proxy of the environment is for the web: it would see the token of a plain http bridge.
        self._http = http or httpx.Client(
            timeout=timeout_seconds, trust_env=self._url.startswith("https:")
        )

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self, spec: ProcessSpec | dict[str, Any], *, idempotency_key: str | None = None
    ) -> Process:
        """Ask for a Process. It is durable when this returns.

        A request whose answer is lost is sent again, and accepted once. With an `idempotency_key`
        of its own, a caller can ask again even after a crash.

        Raises:
            InvalidProcess: it cannot be accepted; `fields` says why.
            IdempotencyConflict: the key was used for something else.
            BodyTooLarge
        """
        parsed = spec if isinstance(spec, ProcessSpec) else parse_spec(spec)
        body = parsed.model_dump_json().encode()
        if len(body) > SPEC_BYTES_LIMIT:
            raise BodyTooLarge(f"a specification has at most {SPEC_BYTES_LIMIT} bytes")
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        try:
            answer = self._call("POST", "/v1/processes", content=body, headers=headers)
        except BridgeUnreachable:
            answer = self._call("POST", "/v1/processes", content=body, headers=headers)
        return _read(Process, answer)

    def get(self, process_id: str) -> Process:
        """One Process. Raises UnknownProcess."""
        return _read(Process, self._call("GET", _path(process_id)))

    def page(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        states: Sequence[ProcessState] = (),
        label: tuple[str, str] | None = None,
        review: ReviewState | None = None,
    ) -> Page:
        """Processes, newest first; with `review`, those whose review is so far."""
        parameters: dict[str, Any] = {"limit": limit, "state": [state.value for state in states]}
        if before is not None:
            parameters["before"] = before
        if review is not None:
            parameters["review"] = review.value
        if label is not None:
            parameters["label"] = "=".join(label)
        return _read(Page, self._call("GET", "/v1/processes", params=parameters))

    def iterate(
        self,
        *,
        states: Sequence[ProcessState] = (),
        label: tuple[str, str] | None = None,
    ) -> Iterator[Process]:
        """All Processes, newest first, asking for page after page."""
        page = self.page(limit=500, states=states, label=label)
        yield from page.processes
        while page.next is not None:
            page = self.page(limit=500, before=page.next, states=states, label=label)
            yield from page.processes

    def cancel(self, process_id: str) -> Process:
        """Ask for the end of a Process. Raises UnknownProcess, IllegalTransition."""
        return _read(Process, self._call("POST", _path(process_id, "/cancel")))

    def decide(self, process_id: str, *, release: bool, reason: str | None = None) -> Process:
        """Let out outputs that wait for a review, or have them destroyed.

        Raises:
            UnknownProcess
            Forbidden: this token is not for that, or the Process is its owner's own.
            NotWaiting: there is nothing to decide (any more).
        """
        path = _path(process_id, "/release" if release else "/reject")
        return _read(Process, self._call("POST", path, json={"reason": reason}))

    def log(self, process_id: str, stream: str = "stdout", offset: int = 0) -> LogPiece:
        """What the program printed to "stdout" or "stderr", or the "job" around it.

        Raises:
            UnknownProcess
        """
        parameters = {"stream": stream, "offset": offset}
        response = self._call("GET", _path(process_id, "/log"), params=parameters)
        try:
            next_offset = int(response.headers["X-Next-Offset"])
            state = ProcessState(response.headers["X-Process-State"])
        except (KeyError, ValueError) as error:
            raise _strange(response) from error
        return LogPiece(response.content, next_offset, state)

    def follow_log(
        self,
        process_id: str,
        stream: str = "stdout",
        *,
        offset: int = 0,
        poll_seconds: float = 1.0,
    ) -> Iterator[bytes]:
        """What the program prints, as it comes, until the Process has ended.

        Raises:
            UnknownProcess
        """
        while True:
            piece = _patiently(self.log, process_id, stream, offset)
            if piece.data:
                offset = piece.next_offset
                yield piece.data
            elif piece.state.final:
                return
            else:
                time.sleep(poll_seconds)

    def script(self, process_id: str) -> str | None:
        """The sbatch script, once it is rendered. Raises UnknownProcess."""
        response = self._send("GET", _path(process_id, "/script"))
        if response.is_success:
            return response.content.decode(errors="replace")
        problem = _problem(response)
        if problem.code == "script-not-ready":
            return None
        raise _error(problem)

    def events(self, process_id: str) -> list[Event]:
        """What was observed and done, in order. Raises UnknownProcess."""
        return _read(_Events, self._call("GET", _path(process_id, "/events"))).events

    def attestation(self, process_id: str) -> Attestation:
        """What its container was found to be. Raises UnknownProcess, NotAttested."""
        return _read(Attestation, self._call("GET", _path(process_id, "/attestation")))

    def trace(self, process_id: str) -> TraceReport:
        """What it did. Raises UnknownProcess, NotTraced."""
        return _read(TraceReport, self._call("GET", _path(process_id, "/trace")))

    def trace_page(self, process_id: str) -> bytes:
        """The same as a page of HTML. Raises UnknownProcess, NotTraced."""
        return self._call("GET", _path(process_id, "/trace/page")).content

    def raw_trace(self, process_id: str) -> Iterator[bytes]:
        """What strace recorded, as text, in pieces.

        Raises:
            UnknownProcess, NotTraced
            StagingFailed: it is not in the Data Store any more.
            BridgeUnreachable: it ends before its end.
        """
        # Only here: a submitter's host needs it for nothing else.
        import zstandard

        url = self._url + _path(process_id, "/trace/raw")
        text = zstandard.ZstdDecompressor().decompressobj()
        try:
            with self._http.stream("GET", url, headers=self._headers) as response:
                if not response.is_success:
                    response.read()
                    raise _error(_problem(response))
                for piece in response.iter_bytes():
                    yield text.decompress(piece)
            if not text.eof:
                raise BridgeUnreachable(f"{url} has answered with a trace that has no end")
        except (httpx.HTTPError, httpx.InvalidURL, zstandard.ZstdError) as error:
            raise BridgeUnreachable(f"{url} does not answer: {error}") from error

    def signing_keys(self) -> list[PublicKey]:
        """The keys with which the bridge signs, the latest first."""
        return _read(_Keys, self._call("GET", "/v1/keys")).keys

    def clusters(self) -> list[ClusterStatus]:
        """The clusters of the site, and how it goes there."""
        return _read(_Clusters, self._call("GET", "/v1/clusters")).clusters

    def capability(self, cluster: str | None = None) -> ComputeCapability:
        """What the cluster offers. Raises SchedulerUnavailable before the first report."""
        parameters = {"cluster": cluster} if cluster else {}
        found = self._call("GET", "/v1/capabilities", params=parameters)
        return _read(ComputeCapability, found)

    def images(self) -> list[ListedImage]:
        """What is recorded, newest first, and whether it is what its name runs."""
        return _read(_Images, self._call("GET", "/v1/images")).images

    def wait(
        self,
        process_id: str,
        *,
        timeout_seconds: float | None = None,
        poll_seconds: float = 1.0,
        on_change: Callable[[Process], None] | None = None,
    ) -> Process:
        """The Process when it has ended; `on_change` sees it first and after every change.

        Raises:
            UnknownProcess
            TimeoutError: it has not ended in time. It goes on.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        seen: Process | None = None
        while True:
            process = _patiently(self.get, process_id)
            if on_change is not None and process != seen:
                on_change(process)
            if process.state.final:
                return process
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Process {process_id} has not ended in {timeout_seconds:g} s")
            seen = process
            time.sleep(poll_seconds)

    def ready(self) -> bool:
        """Whether what is submitted now would be worked on now."""
        return not self.problems()

    def problems(self) -> tuple[str, ...]:
        """What prevents work now; empty when the bridge is ready."""
        response = self._send("GET", "/readyz")
        if response.is_success:
            return ()
        problem = _problem(response)
        return problem.problems or (problem.detail,)

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        response = self._send(method, path, **request)
        if not response.is_success:
            raise _error(_problem(response))
        return response

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        url = self._url + path
        try:
            headers = self._headers | request.pop("headers", {})
            return self._http.request(method, url, headers=headers, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise BridgeUnreachable(f"{self._url} does not answer: {reason}") from error


class _Mistake(BaseModel):
    location: str
    message: str


class _Problem(BaseModel):
    status: int
    code: str
    detail: str
    errors: tuple[_Mistake, ...] = ()
    problems: tuple[str, ...] = ()


def _path(process_id: str, rest: str = "") -> str:
    # Servers and proxies resolve dots and decode slashes, which would lead to another route.
    if "/" in process_id or not process_id.strip("."):
        raise UnknownProcess(f"there is no Process {process_id!r}")
    return f"/v1/processes/{quote(process_id, safe='', errors='replace')}{rest}"


def _read(kind: type[Document], response: httpx.Response) -> Document:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise _strange(response) from error


def _strange(response: httpx.Response) -> BridgeUnreachable:
    return BridgeUnreachable(
        f"{response.request.url} answered {response.status_code}, but not as slurmbridge does"
    )


def _problem(response: httpx.Response) -> _Problem:
    if response.headers.get("Content-Type", "").partition(";")[0] != _PROBLEM:
        raise _strange(response)
    return _read(_Problem, response)


def _error(problem: _Problem) -> SlurmBridgeError:
    kind = _CLASSES.get(problem.code)
    if kind is None:
        kind = RequestError if problem.status < _SERVER_ERRORS else SiteError
    error = kind(problem.detail)
    if isinstance(error, InvalidProcess):
        error.fields = tuple((entry.location, entry.message) for entry in problem.errors)
    return error


def _patiently(ask: Callable[..., Result], *arguments: Any) -> Result:
    for patience in range(PATIENCE, -1, -1):
        try:
            return ask(*arguments)
        except SlurmBridgeError as error:
            if not error.transient or not patience:
                raise
            time.sleep(_RETRY_SECONDS)
    raise AssertionError("the last round returns or raises")
