"""What an engine says of itself, for the metrics of the ingress.

Sent by each engine host to the ingresses once a second, over the tokens' own connection.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mulm.engine.stats import EngineStats

REPORT_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The numbers of the engine that runs one model."""

    model_id: str
    stats: EngineStats

    @property
    def kv_use(self) -> float:
        """The share of pages that cannot be had at once."""
        return 1.0 - self.stats.n_free_pages / self.stats.n_pages

    def encode(self) -> bytes:
        """One line, with its end."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> EngineReport:
        """What `encode` wrote."""
        values = json.loads(line)
        return cls(values["model_id"], EngineStats(**values["stats"]))
