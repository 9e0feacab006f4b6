"""What a run's config says of its rounds, for the aggregator and for the islands.

Used by whoever hosts the aggregator, and by each island's `choice`. Invariant: a pure function of
the settled config and of numbers that all of them are told, so that both sides agree.
"""

from __future__ import annotations

from mulm.train.settled import SettledConfig
from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.island import IslandPlan
from mulm.train.sync.outer_choice import choose_outer
from mulm.train.sync.outer_step import Outer, OuterStep

DEFAULT_ROUND_S = 10.0
"""Where nobody has measured the links."""


def round_plan(
    config: SettledConfig, n_islands: int, n_done: int = 0, outer: Outer | None = None
) -> RoundPlan:
    """The aggregator's: a run of `steps` global batches, cut for so many islands.

    The first `n_done` steps were taken in another way. Without an outer step it is that of a run
    of which nobody knows how many rounds it has.
    """
    asked = config.diloco
    outer = outer or choose_outer(asked, None).kind
    return RoundPlan(
        n_rows=config.steps * config.n_rows,
        granule=inner_rows(config.n_rows, n_islands),
        wire=asked.wire,
        outer=OuterStep(outer, asked.outer_lr, asked.outer_momentum),
        quorum=asked.quorum,
        grace_s=asked.grace_s,
        silence_s=max(30.0, 3 * asked.grace_s),
        first_row=n_done * config.n_rows,
    )


def island_plan(config: SettledConfig) -> IslandPlan:
    """An island's."""
    asked = config.diloco
    round_s = DEFAULT_ROUND_S if asked.round_s == "auto" else asked.round_s
    return IslandPlan(round_s, asked.wire, is_blocking=not asked.overlap)


def inner_rows(n_rows: int, n_islands: int) -> int:
    """Rows of an inner step: the largest divisor of a global batch that is an island's part."""
    most = max(1, n_rows // n_islands)
    return next(rows for rows in range(most, 0, -1) if n_rows % rows == 0)
