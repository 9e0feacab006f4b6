"""An answer of an actor, with a deadline, and our own errors as they were raised.

Called by the typed clients of the ledger and the store. Invariant: a `MulmError` raised inside an
actor arrives as that same error; no call waits for ever.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from mulm.errors import DeadlineError, MulmError, NotRunningError

HINT = "look at `mulm up`: is the application up?"


def answer(reference: Any, who: str, method: str, timeout_s: float) -> Any:
    """Wait for what a remote call returns.

    Raises:
        MulmError: what the actor raised.
        DeadlineError: it did not answer in time.
        NotRunningError: the actor is gone.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, MulmError):
            raise error.cause from None
        raise
    except GetTimeoutError:
        raise DeadlineError(
            f"the {who} did not answer {method!r} within {timeout_s:.0f} s", hint=HINT
        ) from None
    except RayActorError as error:
        raise NotRunningError(f"the {who} is gone: {error}", hint=HINT) from None
