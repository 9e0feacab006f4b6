"""What an engine says of itself, for the metrics and the control API of the ingress.

Sent by each engine host to the ingresses once a second, over their own connection; and once, when
it is made, what the engine takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mulm.engine.stats import EngineStats

REPORT_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs."""

    replica: str = ""
    """Serve's id of it; empty outside of Serve."""
    device: str = ""
    """What computes, by its own name."""
    dtype: str = ""
    """Of the weights."""
    memory_bytes: int = 0
    """What its process holds of the machine's memory, or of the GPU's on one."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The numbers of an engine that runs one model; `engine_id` is of this one life of it."""

    model_id: str
    engine_id: str
    stats: EngineStats
    deployment: str = ""
    """The name that clients use."""
    tokens_per_s: float = 0.0
    """Generated since the report before it."""
    place: Place = Place()
    n_at_ingresses: int = 0
    """Requests that wait at ingresses for a place in any engine, this one's share of them."""
    tokens_at_ingresses: int = 0
    """Of their prompts."""

    @property
    def n_waiting(self) -> int:
        """All that wait, here and at ingresses."""
        return self.stats.n_waiting + self.n_at_ingresses

    @property
    def waiting_tokens(self) -> int:
        """Tokens of all prompts that wait."""
        return self.stats.waiting_tokens + self.tokens_at_ingresses

    @property
    def kv_use(self) -> float:
        """The share of pages that cannot be had at once."""
        return 1.0 - self.stats.n_free_pages / self.stats.n_pages


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine host takes, told when a connection is made."""

    application: str
    name: str
    """Of the replica; no two have the same."""
    n_slots: int
    n_places: int
    """Requests that it takes at a time, those that wait in its own line too."""
    max_queued: int
    """Requests that may wait at an ingress for a place in any engine."""
    page_tokens: int

    def encode(self) -> bytes:
        """One line, without its end."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, line: bytes) -> Offer:
        """What `encode` wrote. Raises ValueError: it is something else."""
        try:
            return cls(**json.loads(line))
        except TypeError as error:
            raise ValueError(f"no offer of an engine: {error!r}") from None


def encode_reports(reports: Iterable[EngineReport]) -> bytes:
    """One line, without its end."""
    written = {"engines": [asdict(report) for report in reports]}
    return json.dumps(written, separators=(",", ":")).encode()


def decode_reports(line: bytes) -> list[EngineReport]:
    """What `encode_reports` wrote.

    Raises:
        ValueError: it is something else, as of another version.
    """
    try:
        return [
            EngineReport(
                **told | {"stats": EngineStats(**told["stats"]), "place": Place(**told["place"])}
            )
            for told in json.loads(line)["engines"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no report of engines: {error!r}") from None
