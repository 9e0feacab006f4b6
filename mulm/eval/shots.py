"""The worked examples that stand before a question.

Called by `mulm.eval.scoring` with each row in order. Invariant: the draws are those of
lm-evaluation-harness with its default seed: one after another from the same generator, so the same
rows get the same examples; a question is never its own example.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mulm.errors import DataError
from mulm.eval.suites.base import Row

SEED = 1234
"""The harness's `fewshot_random_seed`."""


class Shots:
    """Draws `n` of `pool` for each question; with `is_among` the questions are of the pool."""

    def __init__(self, pool: Sequence[Row], n: int, *, is_among: bool) -> None:
        n_drawn = n + is_among if n else 0
        if n_drawn > len(pool):
            raise DataError(
                f"{n} worked examples are asked for, and there are {len(pool)} rows",
                hint="set shots to less, or name a larger file",
            )
        self._pool, self._n, self._n_drawn = pool, n, n_drawn
        self._random = random.Random(SEED)

    def draw(self, question: Row) -> list[Row]:
        """The examples of the next question."""
        drawn = self._random.sample(self._pool, self._n_drawn) if self._n else []
        if self._n_drawn > self._n:
            drawn = [row for row in drawn if row != question]
        return drawn[: self._n]
