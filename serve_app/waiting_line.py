"""The requests that wait at an ingress for a place in one of an application's engines.

Held by `serve_app.engine_line`. Invariants: who came first is first, also if he was called and
found no place; what a request costs here does not grow with how many wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from mulm.messages import GenerateRequest
from serve_app.engine_link import EngineLink, Mailbox


@dataclass(slots=True, eq=False)
class Asking:
    """One request, from its arrival to its end."""

    model_id: str
    request: GenerateRequest
    marks: Sequence[int]
    """Of its prompt's beginnings."""
    begun_s: float
    called: asyncio.Future[None] | None = None
    """Done when it is its turn, or when nobody will have it; None where nothing is waited for."""
    link: EngineLink | None = None
    mailbox: Mailbox = field(default_factory=Mailbox)
    answer_ids: list[int] = field(default_factory=list)
    """Tokens of its first choice so far."""


class WaitingLine:
    """Who waits, and how much that is."""

    def __init__(self) -> None:
        self._line: OrderedDict[Asking, None] = OrderedDict()
        self.n_tokens = 0
        """Of all prompts."""

    def __len__(self) -> int:
        return len(self._line)

    @property
    def first(self) -> Asking:
        """Whose turn it is; only where there is one."""
        return next(iter(self._line))

    def add(self, asking: Asking) -> None:
        """Wait after all others."""
        self._line[asking] = None
        self.n_tokens += len(asking.request.prompt_ids)

    def add_again(self, asking: Asking) -> None:
        """Wait before all that came later."""
        earlier = list(takewhile(lambda each: each.begun_s <= asking.begun_s, self._line))
        self.add(asking)
        for each in (asking, *reversed(earlier)):
            self._line.move_to_end(each, last=False)

    def discard(self, asking: Asking) -> None:
        """Wait no longer, if it does."""
        if asking in self._line:
            del self._line[asking]
            self.n_tokens -= len(asking.request.prompt_ids)
