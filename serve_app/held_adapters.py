"""The adapters that one engine holds, changed while it runs.

Owned by the engine host, one for each engine. Invariant: an adapter that is not wanted any more is
held for a while, since an ingress may not know yet, and then until no request uses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from mulm.engine.engine import Engine
from mulm.errors import ConflictError, NotRunningError
from mulm.model.adapter import Adapter
from serve_app.engine_thread import EngineThread

_log = logging.getLogger(__name__)


class HeldAdapters:
    """Adapters by the id of their version.

    Args:
        thread: The engine.
        keep_s: How long one that is not wanted any more takes new requests.
    """

    def __init__(self, thread: EngineThread, keep_s: float) -> None:
        self._thread, self._keep_s = thread, keep_s
        self._held: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, adapter_id: str) -> bool:
        return adapter_id in self._held

    async def replace(self, wanted: Mapping[str, Adapter]) -> None:
        """Hold these from now on.

        Raises:
            ConfigError: one is for another shape.
            NotRunningError: the engine has stopped.
        """
        for adapter_id in wanted.keys() & self._leaving.keys():
            self._leaving.pop(adapter_id).cancel()
            self._held.discard(adapter_id)  # it may be gone
        for adapter_id in wanted.keys() - self._held:
            await self._thread.act(partial(_set, adapter_id, wanted[adapter_id]))
            self._held.add(adapter_id)
        for adapter_id in self._held - wanted.keys() - self._leaving.keys():
            self._leaving[adapter_id] = asyncio.create_task(self._leave(adapter_id))

    def close(self) -> None:
        """The engine ends, and with it all that it holds."""
        for task in self._leaving.values():
            task.cancel()

    async def _leave(self, adapter_id: str) -> None:
        await asyncio.sleep(self._keep_s)
        self._held.discard(adapter_id)
        while not await self._is_removed(adapter_id):
            await asyncio.sleep(self._keep_s)
        del self._leaving[adapter_id]

    async def _is_removed(self, adapter_id: str) -> bool:
        """Remove it unless a request uses it; with the engine it is gone too."""
        try:
            await self._thread.act(lambda engine: engine.remove_adapter(adapter_id))
        except ConflictError:
            return False
        except NotRunningError:
            return True
        _log.info("adapter removed adapter=%s", adapter_id)
        return True


def _set(adapter_id: str, adapter: Adapter, engine: Engine) -> None:
    """An id never means another: what is in use is there already."""
    with suppress(ConflictError):
        engine.set_adapter(adapter_id, adapter)
