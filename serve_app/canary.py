"""A canary: some requests go to another model, until it is promoted, or ends by itself.

`Canary` is what an operator asks for; `CanaryWatch` counts how requests end beside those that go to
the model itself; `judge` decides, purely. Invariant: what a client did wrong counts against nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from mulm.config import Frozen
from mulm.crew import Outcomes
from mulm.errors import DeadlineError, MulmError
from mulm.messages import GenerateRequest, TokenChunk
from mulm.refs import parse_ref
from serve_app.engine_client import EngineClient
from serve_app.errors import status_of

_N_KEPT = 1000
_SERVERS_FAULT = 500
_TIMES_SLOWER = 3.0
_SLOWER_S = 0.5
_NEARLY = 0.99
"""Of its deadline: the reader's clock began a moment earlier."""


class Canary(Frozen):
    """Which model shall answer how much, and when it has failed."""

    model: str
    """A reference; pinned to a version when it is set."""
    weight: Annotated[float, Field(gt=0, lt=100)] = 10.0
    """Percent of the requests for the deployment's name."""
    min_requests: Annotated[int, Field(ge=1, le=_N_KEPT)] = 20
    """So many must have ended before it is judged."""
    max_failures: Annotated[float, Field(ge=0, lt=100)] = 5.0
    """Percent of its requests that may fail, beyond what fails with the model itself."""

    def model_post_init(self, _context: object) -> None:
        """Refuse what is no reference."""
        parse_ref(self.model)


@dataclass(slots=True)
class Tally:
    """How the newest requests to one model ended.

    Where an alias moves it begins anew, and what was asked of the model before counts no more.
    """

    model_id: str = ""
    has_failed: deque[bool] = field(default_factory=lambda: deque(maxlen=_N_KEPT))
    first_token_s: deque[float] = field(default_factory=lambda: deque(maxlen=_N_KEPT))

    @property
    def failures(self) -> float:
        """Percent of requests."""
        return 100.0 * sum(self.has_failed) / len(self.has_failed) if self.has_failed else 0.0

    @property
    def usual_first_token_s(self) -> float | None:
        """The median; None before there is any."""
        waits = sorted(self.first_token_s)
        return waits[len(waits) // 2] if waits else None

    def told(self) -> Outcomes:
        """The same for the other ingresses."""
        return Outcomes(tuple(self.has_failed), tuple(self.first_token_s))

    def with_others(self, others: Iterable[Outcomes]) -> Tally:
        """The same with what other ingresses have seen."""
        found = Tally()
        for each in (*others, self.told()):
            found.has_failed.extend(each.has_failed)
            found.first_token_s.extend(each.first_token_s)
        return found

    def begin(self, model_id: str) -> None:
        """A request goes to this model."""
        if model_id != self.model_id:
            self.clear()
            self.model_id = model_id

    def end(self, model_id: str, *, has_failed: bool) -> None:
        """A request to that model has ended."""
        if model_id == self.model_id:
            self.has_failed.append(has_failed)

    def clear(self) -> None:
        """Begin anew."""
        self.has_failed.clear()
        self.first_token_s.clear()


def judge(canary: Canary, itself: Tally, other: Tally) -> str | None:
    """Why a canary has failed; None while it has not.

    Args:
        canary: What is allowed.
        itself: Of the canary's model.
        other: Of the deployment's own model.
    """
    if len(itself.has_failed) < canary.min_requests:
        return None
    if itself.failures > canary.max_failures + other.failures:
        return (
            f"{itself.failures:.0f} % of its {len(itself.has_failed)} requests failed,"
            f" of the others {other.failures:.0f} %"
        )
    mine_s, theirs_s = itself.usual_first_token_s, other.usual_first_token_s
    if mine_s is None or theirs_s is None or len(other.first_token_s) < canary.min_requests:
        return None
    if mine_s > _TIMES_SLOWER * theirs_s and mine_s > theirs_s + _SLOWER_S:
        return f"its first token takes {mine_s:.2f} s, of the others {theirs_s:.2f} s"
    return None


class CountedClient:
    """An `EngineClient` that counts how requests end.

    Args:
        client: Does the work.
        tally: Is told.
        clock: Seconds.
    """

    def __init__(
        self, client: EngineClient, tally: Tally, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._tally, self._clock = client, tally, clock
        self.is_ready, self.holds = client.is_ready, client.holds

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`."""
        begun_s, n_open, is_first, was_late = self._clock(), request.n, True, False
        tally = self._tally
        tally.begin(model_id)
        try:
            async with aclosing(self._client.generate(model_id, request)) as chunks:
                async for chunk in chunks:
                    if is_first:
                        if model_id == tally.model_id:
                            tally.first_token_s.append(self._clock() - begun_s)
                        is_first = False
                    n_open -= chunk.finish_reason is not None
                    is_late = chunk.finish_reason == "deadline" and not request.is_hurried
                    was_late = was_late or is_late
                    if not n_open:  # the reader of the last one does not ask for more
                        tally.end(model_id, has_failed=was_late)
                    yield chunk
        except MulmError as error:
            if status_of(error) >= _SERVERS_FAULT and not _is_hurry(error, request):
                tally.end(model_id, has_failed=True)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            is_over = self._clock() - begun_s >= _NEARLY * request.deadline_s
            if n_open and is_over and not request.is_hurried:
                tally.end(model_id, has_failed=True)  # nobody left: its reader's time was over
            raise


def _is_hurry(error: MulmError, request: GenerateRequest) -> bool:
    return request.is_hurried and isinstance(error, DeadlineError)
