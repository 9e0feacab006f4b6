"""Where an island finds the aggregator of its run.

Made by whoever starts islands, part of a worker's context. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class OuterLink:
    """An address, the run's secret, and the name by which the island goes.

    The port becomes another one where the aggregator came back on another; whoever connects reads
    it anew.
    A global batch is cut for `n_islands`, however many there are at a time.
    The first of the names that take part leads: it validates, reports and writes checkpoints.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    island: str
    n_islands: int = 1
