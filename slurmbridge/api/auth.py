"""Who calls."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from slurmbridge.bridge.desk import Desk
from slurmbridge.errors import Unauthenticated

_BEARER = HTTPBearer(auto_error=False, description="A token made by `slurmbridge tokens add`.")


@dataclass(frozen=True, slots=True)
class Visit:
    """A caller who is known, at the desk."""

    desk: Desk
    name: str


def _enter(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> Visit:
    if credentials is None:
        raise Unauthenticated("a token is needed, in the header `Authorization: Bearer TOKEN`")
    desk: Desk = request.app.state.desk
    return Visit(desk, desk.authenticate(credentials.credentials))


Caller = Annotated[Visit, Depends(_enter)]
