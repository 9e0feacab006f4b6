"""Who asks: what a route knows of the request that it answers.

Routes get it by `CallerDependency`. Invariant: behind `AuthMiddleware` there is always one.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from mulm.accounts import Key


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's key and its id."""

    key: Key
    request_id: str


def _caller(request: Request) -> Caller:
    return Caller(request.state.key, request.state.request_id)


CallerDependency = Annotated[Caller, Depends(_caller)]
