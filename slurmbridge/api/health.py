"""Whether the API lives, and whether work can be done. Open to all."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from slurmbridge.api import problems
from slurmbridge.bridge.desk import Desk

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """A good answer."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
def healthz() -> Health:
    """This process lives."""
    return Health()


@router.get(
    "/readyz",
    response_model=Health,
    responses=problems.documented(HTTPStatus.SERVICE_UNAVAILABLE),
)
def readyz(request: Request) -> Health | Response:
    """What is submitted now would be worked on now."""
    desk: Desk = request.app.state.desk
    readiness = desk.readiness()
    if readiness.ready:
        return Health()
    response = problems.answer(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "not-ready",
        "; ".join(readiness.problems),
        more={"problems": list(readiness.problems)},
    )
    response.headers["Retry-After"] = str(problems.RETRY_AFTER_SECONDS)
    return response
