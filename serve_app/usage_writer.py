"""What keys use, counted here and written to the ledger every few seconds.

Held by the ingress. Invariants: what was counted is written once, also where an answer of the
ledger was lost; a crash loses what was counted since the last writing, `PERIOD_S` at most while the
ledger answers; one that is away delays nobody, and is told when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from mulm.accounts import HOUR_S, UsageRow
from mulm.errors import MulmError

_log = logging.getLogger(__name__)

PERIOD_S = 2.0

Write = Callable[[str, int, Sequence[UsageRow]], dict[str, int]]
"""`Facts.add_usage`."""


class UsageWriter:
    """Counts and writes.

    Args:
        write: Notes rows in the ledger under a number, each number once, and tells the tokens of
            each key in all; may block.
        now_s: Seconds of Unix time.
        period_s: Seconds between two writings.
    """

    def __init__(
        self,
        write: Write,
        now_s: Callable[[], float] = time.time,
        period_s: float = PERIOD_S,
    ) -> None:
        self._write, self._now_s, self._period_s = write, now_s, period_s
        self._name = secrets.token_hex(8)
        self._seq = 0
        self._counted: dict[tuple[str, str, int], UsageRow] = {}
        self._batch: list[UsageRow] = []
        self._unwritten: dict[str, int] = {}
        self._written: dict[str, int] | None = None
        self._is_asked = True
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def note(self, key_id: str, model: str, n_input: int, n_output: int) -> None:
        """Count one request."""
        place = key_id, model, int(self._now_s() // HOUR_S) * HOUR_S
        row = self._counted.get(place) or UsageRow(*place, 0, 0, 0)
        self._counted[place] = replace(
            row,
            requests=row.requests + 1,
            input_tokens=row.input_tokens + n_input,
            output_tokens=row.output_tokens + n_output,
        )
        self._unwritten[key_id] = self._unwritten.get(key_id, 0) + n_input + n_output

    def spent(self, key_id: str) -> int | None:
        """Tokens that a key has used in all; None before the ledger was heard."""
        self._is_asked = True
        if self._written is None:
            return None
        return self._written.get(key_id, 0) + self._unwritten.get(key_id, 0)

    async def flush(self) -> bool:
        """Write what is counted, and hear what others have; whether the ledger took it."""
        async with self._flushing:
            if not self._batch:
                self._batch, self._counted = list(self._counted.values()), {}
                self._seq += 1
            try:
                written = await asyncio.to_thread(
                    self._write, self._name, self._seq, tuple(self._batch)
                )
            except MulmError as error:
                _log.warning("usage waits for the ledger rows=%d why=%s", len(self._batch), error)
                return False
            for row in self._batch:
                self._unwritten[row.key_id] -= row.tokens
            self._written, self._batch, self._is_asked = written, [], False
            self._unwritten = {key_id: n for key_id, n in self._unwritten.items() if n}
            return True

    def start(self) -> None:
        """Write every `period_s`, beside the requests; harmless when it does."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Write the rest."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            if not await self.flush():
                _log.error("usage lost rows=%d", len(self._batch))

    async def _work(self) -> None:
        while True:
            if self._counted or self._batch or self._is_asked:
                try:
                    await self.flush()
                except Exception:  # noqa: BLE001 - the border to the ledger, whatever carries it
                    _log.exception("usage was not written rows=%d", len(self._batch))
            await asyncio.sleep(self._period_s)
