"""What the routes of the control API work with: the ledger, the store, the desk of runs.

Made by the ingress; routes get it by `ControlDependency`. All of it may block, so routes are plain
functions, which the framework runs in threads. Invariant: nothing is kept here that is not in the
ledger, so that a restart loses nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.accounts import Key
from mulm.errors import AuthError, NotFoundError, NotRunningError
from mulm.facts import Facts
from mulm.runs.curves import Curves
from mulm.store import Store
from serve_app.auth import ForbiddenError
from serve_app.control_api.event_feed import EventFeed
from serve_app.control_api.served_state import ServedState
from serve_app.errors import Problem


@dataclass(frozen=True, slots=True)
class Control:
    """The state of one installation, as far as HTTP reaches it."""

    facts: Facts
    store: Store
    desk: RunDesk
    starter: RunStarter
    feed: EventFeed
    served: ServedState
    estimate: Callable[[Mapping[str, Any]], dict[str, Any]]
    """What a training would be."""
    nodes: Callable[[], list[dict[str, Any]]]
    """The machines of the cluster."""
    curves: Curves
    """Of training runs."""


# What stands before routes is `async`, though it waits for nothing: else the framework has a thread
# do each of them, which costs a request more than all that they do.
async def _control(request: Request) -> Control:
    control: Control | None = request.app.state.control
    if control is None:
        raise NotRunningError("the control API is not available here")
    return control


ControlDependency = Annotated[Control, Depends(_control)]


async def require_all(request: Request) -> None:
    """Let a request through whose key may do everything, as far as `AuthMiddleware` knows it.

    Raises:
        ForbiddenError: the key is for inference only.
    """
    _require_scope(request.state.key)


def require_all_now(request: Request, control: ControlDependency) -> None:
    """As `require_all`, of the ledger's own word: for what outlives the key that asks for it.

    Raises:
        ForbiddenError: the key is for inference only.
        AuthError: it was revoked.
    """
    try:
        _require_scope(control.facts.key(request.state.key.id))
    except NotFoundError:
        raise AuthError("the API key is not valid any more") from None


def _require_scope(key: Key) -> None:
    if key.scope != "all":
        raise ForbiddenError(
            f"the key {key.name!r} is for inference only", hint="use a key of the scope all"
        )


PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A path, a query or a body that does not fit.", "model": Problem},
    401: {"description": "No key, or none that is valid.", "content": PROBLEM},
    403: {"description": "A key for inference only.", "content": PROBLEM},
    404: {"description": "Nothing of that name or id.", "content": PROBLEM},
    405: {"description": "The route has no such method.", "content": PROBLEM},
    408: {"description": "The body did not come in time.", "content": PROBLEM},
    409: {"description": "It is not, or no longer, so that this can be done.", "content": PROBLEM},
    413: {"description": "A body that is too large.", "content": PROBLEM},
    421: {"description": "The request is meant for another host.", "content": PROBLEM},
    429: {"description": "More than a limit allows now.", "content": PROBLEM},
    500: {"description": "Something that we did not foresee, or damage.", "content": PROBLEM},
    502: {"description": "A server elsewhere cannot be reached.", "content": PROBLEM},
    503: {"description": "The ledger or the cluster does not answer.", "content": PROBLEM},
    504: {"description": "Something was not finished in time.", "content": PROBLEM},
    507: {"description": "The disk is full.", "content": PROBLEM},
}
"""For routers: what every one of their routes may answer."""

ALL_SCOPE = [Depends(require_all)]
"""For routers: what stands between a key and every one of their routes."""
ALL_SCOPE_NOW = [Depends(require_all_now)]
"""For routes that make or change keys."""
