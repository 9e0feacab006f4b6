"""What the routes of the control API work with: the ledger, the store, the desk of runs.

Made by the ingress; routes get it by `ControlDependency`. All of it may block, so routes are plain
functions, which the framework runs in threads. Invariant: nothing is kept here that is not in the
ledger, so that a restart loses nothing.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.errors import AuthError, NotFoundError, NotRunningError
from mulm.facts import Facts
from mulm.store import Store
from serve_app.control_api.event_feed import EventFeed


class ForbiddenError(AuthError):
    """A key that is valid may not do this."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Control:
    """The state of one installation, as far as HTTP reaches it."""

    facts: Facts
    store: Store
    desk: RunDesk
    starter: RunStarter
    feed: EventFeed


def _control(request: Request) -> Control:
    control: Control | None = request.app.state.control
    if control is None:
        raise NotRunningError("the control API is not available here")
    return control


def require_all(request: Request) -> None:
    """Let a request through whose key may do everything.

    Raises:
        ForbiddenError: the key is for inference only.
        AuthError: it was revoked.
    """
    try:
        key = _control(request).facts.key(request.state.key_id)
    except NotFoundError:
        raise AuthError("the API key is not valid any more") from None
    if key.scope != "all":
        raise ForbiddenError(
            f"the key {key.name!r} is for inference only", hint="use a key of the scope all"
        )


ControlDependency = Annotated[Control, Depends(_control)]
ALL_SCOPE = [Depends(require_all)]
"""For routers: what stands between a key and every one of their routes."""
