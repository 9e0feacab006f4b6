"""Who asks: what a route knows of the request that it answers.

Routes get it by `CallerDependency`, those that have a model answer by `WaitingDependency`.
Invariant: behind `AuthMiddleware` and `LimitsMiddleware` there is always one.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Header, Request

from mulm.accounts import Key
from serve_app.limiter import Ticket


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's key, its id, what it may use, and how long it waits for an answer."""

    key: Key
    request_id: str
    ticket: Ticket
    timeout_s: float = math.inf


async def _caller(request: Request) -> Caller:
    return Caller(request.state.key, request.state.request_id, request.state.ticket)


CallerDependency = Annotated[Caller, Depends(_caller)]


async def _waiting(
    caller: CallerDependency, x_request_timeout: Annotated[float, Header(gt=0)] = math.inf
) -> Caller:
    return replace(caller, timeout_s=x_request_timeout)


WaitingDependency = Annotated[Caller, Depends(_waiting)]
"""For routes that have a model answer."""
