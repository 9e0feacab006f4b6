"""Follows an alias: what serves it is told when it points to another model.

Used by the engine host and the ingress host, each for itself, so that nobody has to be told by a
deployment. Invariant: a model that cannot be taken over is tried once, and the one before it is
served on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mulm.errors import MulmError
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

FOLLOW_PERIOD_S = 1.0

Resolve = Callable[[AppArgs], str]
"""The id of the model that a reference means by now."""


class AliasWatch:
    """Looks now and then where the served alias points.

    Args:
        resolve: Looks; may block.
        period_s: Seconds between two looks.
    """

    def __init__(self, resolve: Resolve, period_s: float = FOLLOW_PERIOD_S) -> None:
        self._resolve, self._period_s = resolve, period_s
        self._task: asyncio.Task[None] | None = None

    def follow(self, args: AppArgs, take_over: Callable[[AppArgs], Awaitable[None]]) -> None:
        """Call `take_over` whenever the alias in `args` has moved; another call ends this one."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if args.model is not None and args.ref.alias is not None:
            self._task = asyncio.create_task(self._watch(args, take_over))

    async def _watch(self, args: AppArgs, take_over: Callable[[AppArgs], Awaitable[None]]) -> None:
        known: str | None = None
        while True:
            try:
                found = await asyncio.to_thread(self._resolve, args)
                is_new, known = known is not None and found != known, found
                if is_new:
                    _log.info("alias moved alias=%s model=%s", args.model, found)
                    await take_over(args)
            except MulmError as error:
                _log.warning("alias is not followed alias=%s reason=%s", args.model, error.message)
            await asyncio.sleep(self._period_s)


def resolve_id(args: AppArgs) -> str:
    """The manifest id of the model that `args` name, in the cluster's ledger.

    Raises:
        NotFoundError: there is none.
        NotRunningError: the ledger does not answer.
    """
    from actors.ledger_host import connect_facts

    return connect_facts().resolve("model", args.ref).manifest_id
