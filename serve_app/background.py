"""Work that would hold up the event loop: texts to ids and back, and long answers as JSON.

Held by the service, used by the routes. Invariants: the loop never waits for it; of long texts one
is at work at a time, so that neither cores nor memory are theirs; the others wait in line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

LONG_BYTES = 1 << 18
"""A text from which on it waits in line, a tenth of a second's work."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Background:
    """Threads beside the event loop."""

    def __init__(self) -> None:
        # One thread keeps one arena: memory that long texts took is taken again by the next.
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long-text")

    async def run(
        self, size_bytes: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """What `work` returns; `size_bytes` is of the text that it reads."""
        if size_bytes < LONG_BYTES:
            return await asyncio.to_thread(work, *args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._long, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Begin nothing more."""
        self._long.shutdown(wait=False, cancel_futures=True)
