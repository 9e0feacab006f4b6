"""Who asks: what a route knows of the request that it answers.

Routes get it by `CallerDependency`. Invariant: behind `AuthMiddleware` and
`LimitsMiddleware` there is always one.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from mulm.accounts import Key
from serve_app.limiter import Ticket


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's key, its id, and what it may use."""

    key: Key
    request_id: str
    ticket: Ticket


async def _caller(request: Request) -> Caller:
    return Caller(request.state.key, request.state.request_id, request.state.ticket)


CallerDependency = Annotated[Caller, Depends(_caller)]
