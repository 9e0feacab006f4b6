"""The model of one application's engines, as clients are to meet it.

Held by `serve_app.deployed`. It reads the model's light half, and follows its alias. Invariant: a
model is served from the moment at which an engine holds it; until then the one before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mulm.errors import MulmError
from serve_app.alias_watch import AliasWatch, Meaning, Resolve, meaning
from serve_app.engine_client import EngineClient
from serve_app.served import Served
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

SWITCH_POLL_S = 0.2
_MAX_SWITCH_POLL_S = 5.0

OpenServed = Callable[[AppArgs, EngineClient], Served]
"""Reads what HTTP needs of the model that settings name by now; may block."""


class Followed:
    """What one application serves.

    Args:
        engine: The way to its engines.
        open_served: Reads the light half.
        resolve: Looks where an alias points; may block.
        poll_s: Seconds between two questions whether an engine has a new model.
    """

    def __init__(
        self,
        engine: EngineClient,
        open_served: OpenServed,
        resolve: Resolve,
        poll_s: float = SWITCH_POLL_S,
    ) -> None:
        self.engine = engine
        self.served: Served | None = None
        self.problem = ""
        self._open_served, self._poll_s = open_served, poll_s
        self._alias = AliasWatch(resolve)
        self._wanted: Served | None = None
        self._keeps_an_engine = True
        self._change: asyncio.Task[None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether what is wanted is what is served."""
        return self.served is not None and self.served is self._wanted

    async def reconfigure(self, args: AppArgs) -> None:
        """Serve what `args` name, as soon as an engine does; what is wrong is the `problem`."""
        self._keeps_an_engine = args.min_replicas > 0
        self._alias.stop()  # of what was wanted before
        try:
            found = await self._take_over(args)
        except MulmError as error:
            _log.warning("deployment is not served name=%s reason=%s", args.name, error.message)
            self.problem = error.message
        except Exception:  # noqa: BLE001 - others are served; it is tried again
            _log.exception("deployment is not served name=%s", args.name)
            self.problem = "something unforeseen; the ingress's log says more"
        else:
            self.problem = ""
            self._alias.follow(args, found, self._take_over)

    async def is_ready(self) -> bool:
        """Whether an engine answers. Where none is kept, to ask would start one."""
        if self.served is None:
            return False
        return not self._keeps_an_engine or await self.engine.is_ready()

    def stop(self) -> None:
        """Follow nothing any more."""
        self._alias.stop()
        if self._change is not None:
            self._change.cancel()

    async def _take_over(self, args: AppArgs) -> Meaning:
        served = await asyncio.to_thread(self._open_served, args, self.engine)
        self._wanted = served
        if self._change is not None:
            self._change.cancel()
        self._change = asyncio.create_task(self._switch(served))
        return meaning([served.model_id, *(each.id for each in served.adapters)])

    async def _switch(self, served: Served) -> None:
        """Where no engine is kept nobody is asked: requests wait for one that has the model."""
        poll_s = self._poll_s
        while self._keeps_an_engine and not await self.engine.holds(served.model_id):
            await asyncio.sleep(poll_s)
            poll_s = min(1.2 * poll_s, _MAX_SWITCH_POLL_S)
        self.served = served
