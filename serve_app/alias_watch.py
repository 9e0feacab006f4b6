"""Follows an alias: what serves it is told when it points to another model.

Used by the engine host and the ingress host, each for itself, so that nobody has to be told by a
deployment. Invariants: whoever serves it has, in the end, the model that the alias points to; one
that cannot be taken over is tried once, and the one before it is served on; what fails for the
moment is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mulm.errors import DeadlineError, MulmError, NotRunningError
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

FOLLOW_PERIOD_S = 1.0
MAX_PAUSE_S = 30.0

Resolve = Callable[[AppArgs], str]
"""The id of the model that a reference means by now."""

TakeOver = Callable[[AppArgs], Awaitable[str]]
"""Serves what a reference means by now, and says its id."""


class AliasWatch:
    """Looks now and then where the served alias points.

    Args:
        resolve: Looks; may block.
        period_s: Seconds between two looks.
    """

    def __init__(self, resolve: Resolve, period_s: float = FOLLOW_PERIOD_S) -> None:
        self._resolve, self._period_s = resolve, period_s
        self._task: asyncio.Task[None] | None = None

    def follow(self, args: AppArgs, served_id: str, take_over: TakeOver) -> None:
        """Call `take_over` whenever the alias in `args` means another model than is served.

        Another call ends this one.
        """
        self.stop()
        if args.model is not None and args.ref.alias is not None:
            self._task = asyncio.create_task(self._watch(args, served_id, take_over))

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self, args: AppArgs, served_id: str, take_over: TakeOver) -> None:
        refused = ""
        pause_s = self._period_s
        while True:
            await asyncio.sleep(pause_s)
            found = ""
            try:
                found = await asyncio.to_thread(self._resolve, args)
                if found not in (served_id, refused):
                    _log.info("alias moved alias=%s model=%s", args.model, found)
                    served_id, refused = await take_over(args), ""
            except (NotRunningError, DeadlineError) as error:
                _log.warning("alias is not followed now alias=%s why=%s", args.model, error.message)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            except MulmError as error:
                _log.warning("alias is not followed alias=%s reason=%s", args.model, error.message)
                refused = found
            except Exception:  # noqa: BLE001 - weights are loaded here: nothing may end the watch
                _log.exception("alias is not followed alias=%s model=%s", args.model, found)
                refused = found
            else:
                pause_s = self._period_s


def resolve_id(args: AppArgs) -> str:
    """The manifest id of the model that `args` name, in the cluster's ledger.

    Raises:
        NotFoundError: there is none.
        NotRunningError: the ledger does not answer.
    """
    from actors.ledger_host import connect_facts

    return connect_facts().resolve("model", args.ref).manifest_id
