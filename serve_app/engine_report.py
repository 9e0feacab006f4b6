"""What an engine says of itself: for metrics, and for whoever decides how many engines there are.

Sent by each engine host to the ingresses once a second, over the tokens' own connection.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mulm.engine.stats import EngineStats

REPORT_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The numbers of one engine; those of `EngineStats`, and the model's id."""

    model_id: str
    n_running: int
    n_waiting: int
    waiting_tokens: int
    n_pages: int
    n_free_pages: int
    n_preemptions: int
    prefix_tokens: int
    prefix_hits: int
    prompt_tokens: int
    generated_tokens: int
    proposed_tokens: int
    accepted_tokens: int

    @classmethod
    def of(cls, model_id: str, stats: EngineStats) -> EngineReport:
        """The report of an engine's numbers."""
        return cls(model_id, **asdict(stats))

    @property
    def kv_use(self) -> float:
        """The share of pages that cannot be had at once."""
        return 1.0 - self.n_free_pages / self.n_pages

    def encode(self) -> bytes:
        """One line, with its end."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> EngineReport:
        """What `encode` wrote."""
        return cls(**json.loads(line))
