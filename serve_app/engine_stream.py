"""One request on its way out of an engine's thread: where its chunks go, and what is held back.

Kept by `serve_app.engine_thread`. Invariant: chunks of a choice go out in order, each once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from mulm.errors import MulmError
from mulm.messages import GenerateRequest, TokenChunk, join_chunks

Put = Callable[[TokenChunk | MulmError], None]
"""Takes a request's chunks in its event loop, and the error that ends it."""


@dataclass(slots=True, eq=False)
class Stream:
    """One consumer: where its chunks go, and what has not been sent yet."""

    request: GenerateRequest
    loop: asyncio.AbstractEventLoop
    put: Put
    pending: dict[int, list[TokenChunk]] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    n_ended: int = 0

    def take(self, chunk: TokenChunk) -> bool:
        """Keep it for the next flush; whether that is now, since a choice begins or ends."""
        self.pending.setdefault(chunk.index, []).append(chunk)
        self.n_ended += chunk.finish_reason is not None
        is_first = chunk.index not in self.started
        self.started.add(chunk.index)
        return is_first or chunk.finish_reason is not None

    def flush(self) -> list[TokenChunk]:
        """What has not been sent yet, a chunk for each choice."""
        pending, self.pending = self.pending, {}
        return [join_chunks(chunks) for chunks in pending.values()]
