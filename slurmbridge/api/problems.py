"""What went wrong, as RFC 9457 problem documents. Every answer that is no success is one."""

import json
import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from slurmbridge import errors
from slurmbridge.errors import InvalidProcess, SlurmBridgeError, Unauthenticated

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

STATUS_OF: Mapping[type[SlurmBridgeError], HTTPStatus] = {
    errors.SlurmBridgeError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.RequestError: HTTPStatus.BAD_REQUEST,
    errors.InvalidProcess: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotThere: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotWaiting: HTTPStatus.CONFLICT,
    errors.UnknownProcess: HTTPStatus.NOT_FOUND,
    errors.UnknownImage: HTTPStatus.NOT_FOUND,
    errors.NotAttested: HTTPStatus.NOT_FOUND,
    errors.NotTraced: HTTPStatus.NOT_FOUND,
    errors.AmbiguousImage: HTTPStatus.CONFLICT,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.IllegalTransition: HTTPStatus.CONFLICT,
    errors.IdempotencyConflict: HTTPStatus.CONFLICT,
    errors.SubmissionRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.SiteError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SchedulerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SubmissionNotSent: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ShellUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.HostKeyRefused: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.FilesUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.OverBudget: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotStanding: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ReplyUnreadable: HTTPStatus.BAD_GATEWAY,
    errors.StagingFailed: HTTPStatus.BAD_GATEWAY,
    errors.StoreForbids: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StoreFailed: HTTPStatus.BAD_GATEWAY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreRefused: HTTPStatus.BAD_GATEWAY,
    errors.StoreFull: HTTPStatus.BAD_GATEWAY,
    errors.StoreChanged: HTTPStatus.BAD_GATEWAY,
    errors.StoreAnswerUnreadable: HTTPStatus.BAD_GATEWAY,
    errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NoNodeReady: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RequirementsAwaited: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BridgeUnreachable: HTTPStatus.BAD_GATEWAY,
    errors.ContainerError: HTTPStatus.CONFLICT,
    errors.DefinitionInvalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ImageBuildFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ImageRefused: HTTPStatus.CONFLICT,
    errors.HelpersMissing: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.AttestationInvalid: HTTPStatus.CONFLICT,
}

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """A problem document (RFC 9457). `errors` says what is wrong: a location and a message each."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] | None = None
    problems: list[str] | None = None
    correlation_id: str | None = None


def answer(
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """A problem document as a response; `more` holds further members."""
    content = {
        "type": f"urn:slurmbridge:problem:{code}",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **(more or {}),
    }
    # Escaped to ASCII: a detail may quote what no UTF-8 can carry.
    return Response(json.dumps(content), status, media_type=MEDIA_TYPE)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these problems, and of any other."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    found: dict[int | str, dict[str, Any]] = {
        status.value: {"description": status.phrase, "content": content} for status in statuses
    }
    found["default"] = {"description": "A problem document (RFC 9457)", "content": content}
    return found


def register(app: FastAPI) -> None:
    """Make every failure of the application a problem document."""
    app.add_exception_handler(SlurmBridgeError, _anticipated)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: type[SlurmBridgeError]) -> HTTPStatus:
    """The status of an error class: its own row, or the one of its nearest base."""
    return next(STATUS_OF[base] for base in error.__mro__ if base in STATUS_OF)


def _anticipated(_request: Request, error: Exception) -> Response:
    assert isinstance(error, SlurmBridgeError)
    more: dict[str, Any] = {}
    if isinstance(error, InvalidProcess):
        more["errors"] = [
            {"location": location, "message": message} for location, message in error.fields
        ]
    title = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
    response = answer(status_of(type(error)), error.code, str(error), title=title, more=more)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.transient:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _invalid_parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    mistakes = [
        {"location": ".".join(str(part) for part in found["loc"]), "message": str(found["msg"])}
        for found in error.errors()
    ]
    detail = "; ".join(f"{mistake['location']}: {mistake['message']}" for mistake in mistakes)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return answer(status, "invalid-request", detail, more={"errors": mistakes})


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower().replace("_", "-")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    response = answer(error.status_code, code, detail)
    response.headers.update(error.headers or {})
    return response


def _gone(_request: Request, _error: Exception) -> Response:
    return answer(HTTPStatus.BAD_REQUEST, "bad-request", "the body ended early")


def _unexpected(request: Request, error: Exception) -> Response:
    correlation_id = secrets.token_hex(8)
    _log.error(
        "%s %s failed; correlation id %s", request.method, request.url.path, correlation_id,
        exc_info=error,
    )  # fmt: skip
    detail = f"an unexpected error, recorded in the log of the API as {correlation_id}"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return answer(status, "internal", detail, more={"correlation_id": correlation_id})
