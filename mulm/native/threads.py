"""With how many threads a model's steps are fastest: found out by taking some.

Called where a model is opened and nobody said a number. Two threads of one core share what it
computes with, slow cores make fast ones wait, and few cores take all that memory gives: so all CPUs
are often slower than some of them. Invariant: where two counts are about as fast it is the larger
one, which serves batches and prompts too; a machine on which a step is slow is not asked for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mulm.model.batch import Batch
from mulm.native.model import NativeCache, NativeModel

ROUNDS = 6
LONGEST_S = 1.0
"""After that no other turn begins; and where one step takes so long, nothing is tried."""
ABOUT = 1.08
"""Noise on a machine that does something else too."""
_FEW = 2
"""So many are always all used: while another program has a core, one alone would look faster."""


def choose_threads(
    model: NativeModel, n_cpus: int, now_s: Callable[[], float] = time.perf_counter
) -> int:
    """Have a model compute with the count that makes single tokens fastest; returns it.

    Raises:
        MemoryError: there are no threads, or there is no memory, for a step.
    """
    counts = candidates(n_cpus)
    seconds = _measured(model, counts, now_s) if len(counts) > 1 else {}
    chosen = fastest(seconds) if len(seconds) == len(counts) else counts[0]
    model.set_threads(chosen)
    return chosen


def candidates(n_cpus: int) -> list[int]:
    """All CPUs and parts of them, the most first."""
    if n_cpus <= _FEW:
        return [n_cpus]
    return sorted({n_cpus, n_cpus * 3 // 4, n_cpus // 2, max(1, n_cpus // 4)}, reverse=True)


def fastest(seconds: Mapping[int, float]) -> int:
    """The largest of the counts that are about as fast as the best."""
    best_s = min(seconds.values())
    return max(count for count, s in seconds.items() if s <= ABOUT * best_s)


def _measured(
    model: NativeModel, counts: list[int], now_s: Callable[[], float]
) -> dict[int, float]:
    """The shortest step of each; they take turns, so that a pause of the machine meets all."""
    cache, seconds = model.make_cache(1), dict[int, float]()
    until_s = now_s() + LONGEST_S
    for _ in range(ROUNDS):
        for count in counts:
            model.set_threads(count)
            _step(model, cache)  # the threads are new, and asleep
            began_s = now_s()
            _step(model, cache)
            seconds[count] = min(seconds.get(count, float("inf")), now_s() - began_s)
            if len(seconds) < len(counts) and now_s() > until_s:
                return {}  # not all were tried
        if now_s() > until_s:
            break
    return seconds


def _step(model: NativeModel, cache: NativeCache) -> None:
    """One stream, one token."""
    model.logits(model.extend(Batch.of(([0], 0, [0])), cache))
