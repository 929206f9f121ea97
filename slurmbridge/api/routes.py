"""The routes below /v1."""

from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import AfterValidator, BaseModel, StringConstraints

from slurmbridge.api.auth import Caller
from slurmbridge.api.problems import answer, documented
from slurmbridge.errors import BodyTooLarge, NotAttested, UnknownProcess
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
from slurmbridge.spec import SPEC_BYTES_LIMIT, parse_spec
from slurmbridge.trace.page import page as page_of
from slurmbridge.trace.report import TraceReport

LOG_BYTES_LIMIT = 1 << 20
# The databases count in signed 64 bits.
_OFFSET_LIMIT = (1 << 63) - 1

router = APIRouter(prefix="/v1", responses=documented(HTTPStatus.UNAUTHORIZED))


class ProcessPage(BaseModel):
    """Processes, newest first; `next` is the `before` of the following page."""

    processes: list[Process]
    next: str | None


class Events(BaseModel):
    """What was observed and done, in order."""

    events: list[Event]


class Keys(BaseModel):
    """Public keys, the latest first."""

    keys: list[PublicKey]


class Clusters(BaseModel):
    """The clusters, as they stand in the configuration."""

    clusters: list[ClusterStatus]


class Images(BaseModel):
    """What is recorded, newest first."""

    images: list[ListedImage]


async def _limited_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > SPEC_BYTES_LIMIT:
            raise BodyTooLarge(f"a specification has at most {SPEC_BYTES_LIMIT} bytes")
    return bytes(body)


def _storable(process_id: str) -> str:
    # PostgreSQL takes no NUL in text, not even to compare with.
    if "\0" in process_id:
        raise UnknownProcess(f"there is no Process {process_id!r}")
    return process_id


def _response(description: str, **headers: str) -> dict[int | str, dict[str, Any]]:
    described = {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    }
    return {200: {"description": description, "headers": described}}


ProcessId = Annotated[str, Path(), AfterValidator(_storable)]
Body = Annotated[bytes, Depends(_limited_body)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,255}$",
        description="A name for this request, such as a UUID, that its sender gives to no other",
    ),
]
_UNKNOWN = documented(HTTPStatus.NOT_FOUND)
_HELD_BACK = documented(HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)
# The page brings its own style and nothing else.
_CLOSED = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
_PLAIN = {"X-Content-Type-Options": "nosniff"}
# The schema of the body is the one that the answer brings into the document.
_SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ProcessSpec"}}},
    }
}


@router.post(
    "/processes",
    status_code=HTTPStatus.CREATED,
    tags=["processes"],
    openapi_extra=_SPEC_BODY,
    responses=documented(
        HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY
    )
    | {HTTPStatus.OK.value: {"model": Process, "description": "It was accepted before"}},
)
def submit(
    caller: Caller, body: Body, response: Response, idempotency_key: IdempotencyKey = None
) -> Process:
    """Accept a Process. It is durable when this answers; nothing waits for Slurm.

    With an Idempotency-Key, the same request can be sent again: it is accepted once.
    """
    spec = parse_spec(body)
    if idempotency_key is None:
        process = caller.desk.submit(spec, by=caller.name)
    else:
        process, new = caller.desk.submit_once(spec, by=caller.name, key=idempotency_key)
        if not new:
            response.status_code = HTTPStatus.OK
    response.headers["Location"] = f"{router.prefix}/processes/{process.id}"
    return process


@router.get("/processes", tags=["processes"])
def page(
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(pattern=r"^[!-~]{1,64}$")] = None,
    state: Annotated[tuple[ProcessState, ...], Query()] = (),
    label: Annotated[
        str | None,
        Query(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}=[^\x00]{0,256}$",
            description="key=value",
        ),
    ] = None,
    review: ReviewState | None = None,
) -> ProcessPage:
    """Processes, newest first."""
    key, _, value = (label or "").partition("=")
    found = caller.desk.page(
        limit=limit + 1,
        before=before,
        states=state,
        label=(key, value) if label else None,
        review=review,
        by=caller.name,
    )
    shown = found[:limit]
    return ProcessPage(processes=shown, next=shown[-1].id if len(found) > limit else None)


@router.get("/processes/{process_id}", tags=["processes"], responses=_UNKNOWN)
def inspect(caller: Caller, process_id: ProcessId) -> Process:
    """One Process."""
    return caller.desk.inspect(process_id, by=caller.name)


class Decision(BaseModel):
    """Why outputs are let out, or not."""

    reason: Annotated[str | None, StringConstraints(pattern=r"^[^\x00]{1,1000}$")] = None


_DECIDED = documented(
    HTTPStatus.NOT_FOUND,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@router.post(
    "/processes/{process_id}/release",
    status_code=HTTPStatus.ACCEPTED,
    tags=["review"],
    responses=_DECIDED,
)
def release(caller: Caller, process_id: ProcessId, decision: Decision) -> Process:
    """Let out the outputs of a Process that wait for it. A Runner carries them."""
    desk, reason = caller.desk, decision.reason
    return desk.decide(process_id, release=True, by=caller.name, reason=reason)


@router.post(
    "/processes/{process_id}/reject",
    status_code=HTTPStatus.ACCEPTED,
    tags=["review"],
    responses=_DECIDED,
)
def reject(caller: Caller, process_id: ProcessId, decision: Decision) -> Process:
    """Have the outputs of a Process destroyed that wait for a decision."""
    desk, reason = caller.desk, decision.reason
    return desk.decide(process_id, release=False, by=caller.name, reason=reason)


@router.post(
    "/processes/{process_id}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    tags=["processes"],
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def cancel(caller: Caller, process_id: ProcessId) -> Process:
    """Ask for the end of a Process. Asking again changes nothing."""
    return caller.desk.cancel(process_id, by=caller.name)


@router.get(
    "/processes/{process_id}/log",
    tags=["processes"],
    response_class=PlainTextResponse,
    responses=_UNKNOWN
    | _response(
        "The bytes as the program printed them, UTF-8 or not.",
        X_Next_Offset="where to go on reading",
        X_Process_State="the state before the bytes were read",
    ),
)
def log(
    caller: Caller,
    process_id: ProcessId,
    stream: Literal["stdout", "stderr", "job"] = "stdout",
    offset: Annotated[int, Query(ge=0, le=_OFFSET_LIMIT)] = 0,
    limit: Annotated[int, Query(ge=1, le=LOG_BYTES_LIMIT)] = LOG_BYTES_LIMIT,
) -> Response:
    """What the program printed, from a byte offset on.

    When the state is final and no byte comes, there is no more.
    """
    # In this order: all bytes of a Process whose state is final are there to be read.
    state = caller.desk.inspect(process_id, by=caller.name).state
    data = caller.desk.log(process_id, stream, offset=offset, limit=limit, by=caller.name)
    headers = {"X-Next-Offset": str(offset + len(data)), "X-Process-State": state.value}
    return PlainTextResponse(data, headers=headers | _PLAIN)


@router.get(
    "/processes/{process_id}/script",
    tags=["processes"],
    response_class=PlainTextResponse,
    responses=_UNKNOWN,
)
def script(caller: Caller, process_id: ProcessId) -> Response:
    """The sbatch script as it was rendered for this Process."""
    text = caller.desk.script(process_id)
    if text is None:
        detail = f"the script of Process {process_id} is not rendered yet"
        return answer(HTTPStatus.NOT_FOUND, "script-not-ready", detail)
    return PlainTextResponse(text, headers=_PLAIN)


@router.get("/processes/{process_id}/attestation", tags=["processes"], responses=_UNKNOWN)
def attestation(caller: Caller, process_id: ProcessId) -> Attestation:
    """What the container was found to be before the program started, signed by the bridge.

    It is there when the Process has ended, if its container came so far.
    """
    found = caller.desk.attestation(process_id)
    if found is None:
        raise NotAttested(f"there is no attestation of Process {process_id}")
    return found


def _report(caller: Caller, process_id: ProcessId) -> bytes:
    return caller.desk.trace_report(process_id, by=caller.name)


Report = Annotated[bytes, Depends(_report)]


@router.get(
    "/processes/{process_id}/trace",
    tags=["processes"],
    response_model=TraceReport,
    responses=_UNKNOWN,
)
def trace(report: Report) -> Response:
    """What a traced Process did, with a verdict. It is there when the Process has ended."""
    return Response(report, media_type="application/json", headers=_PLAIN)


@router.get(
    "/processes/{process_id}/trace/page",
    tags=["processes"],
    response_class=HTMLResponse,
    responses=_UNKNOWN,
)
def trace_page(report: Report) -> Response:
    """The same as a page of HTML that needs nothing else."""
    text = page_of(TraceReport.model_validate_json(report))
    return HTMLResponse(text, headers=_PLAIN | {"Content-Security-Policy": _CLOSED})


@router.get(
    "/processes/{process_id}/trace/raw",
    tags=["processes"],
    response_class=StreamingResponse,
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY)
    | {200: {"description": "strace's own text", "content": {"application/zstd": {}}}},
)
def trace_raw(caller: Caller, process_id: ProcessId) -> Response:
    """What strace recorded, as it was carried to the Data Store."""
    held = ExitStack()
    file = held.enter_context(caller.desk.open_trace(process_id, by=caller.name))

    def pieces() -> Iterator[bytes]:
        with held:
            while piece := file.read(LOG_BYTES_LIMIT):
                yield piece

    return StreamingResponse(pieces(), media_type="application/zstd", headers=_PLAIN)


@router.get("/keys", tags=["site"])
def keys(caller: Caller) -> Keys:
    """The keys with which the bridge signs attestations."""
    return Keys(keys=caller.desk.keys())


@router.get("/processes/{process_id}/events", tags=["processes"], responses=_UNKNOWN)
def events(caller: Caller, process_id: ProcessId) -> Events:
    """What was observed and done, with sources."""
    return Events(events=caller.desk.events(process_id))


@router.get("/clusters", tags=["site"])
def clusters(caller: Caller) -> Clusters:
    """The clusters of this site, and how it goes there."""
    return Clusters(clusters=caller.desk.clusters())


@router.get("/capabilities", tags=["site"], responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def capabilities(
    caller: Caller, cluster: Annotated[str | None, Query(pattern=r"^[!-~]{1,64}$")] = None
) -> ComputeCapability:
    """What the cluster offers, as last reported."""
    return caller.desk.capability(cluster)


@router.get("/images", tags=["site"])
def images(caller: Caller) -> Images:
    """What is recorded, newest first, and whether it is what its name runs."""
    return Images(images=caller.desk.images())
