"""Workers begin alike, or not at all.

Called by the training loop before its first step. Gradients are added up, weights are not: a worker
that starts from something else would stay different for the whole run without a word.
"""

from __future__ import annotations

from hashlib import sha256

from torch import Tensor

from mulm.errors import ConfigError, CorruptError
from mulm.model.weights import tensor_bytes
from mulm.train.device import DTYPES
from mulm.train.state import TrainState, common_tensors
from mulm.train.sync.base import Sync

_DIGEST_BITS = 48  # exact in a float64
_PRECISIONS = tuple(DTYPES)


def require_agreement(state: TrainState, sync: Sync, rank: int, world_size: int) -> None:
    """Compare step, precision, weights and optimizer state of all workers.

    Raises:
        ConfigError: they begin at different steps or in different precisions.
        CorruptError: they hold different numbers at the same step.
    """
    own = [state.step, _PRECISIONS.index(state.precision), digest(common_tensors(state))]
    table = gather([float(value) for value in own], sync, rank, world_size)
    first_step, first_precision, first_digest = table[0]
    for other, (step, precision, numbers) in enumerate(table):
        if step != first_step:
            raise ConfigError(
                f"worker 0 begins at step {first_step:.0f}, worker {other} at {step:.0f}",
                hint="a checkpoint was written meanwhile: run the same command again",
            )
        if precision != first_precision:
            names = _PRECISIONS[int(first_precision)], _PRECISIONS[int(precision)]
            raise ConfigError(
                f"worker 0 computes in {names[0]}, worker {other} in {names[1]}",
                hint="name one that all machines can do, such as precision: fp32",
            )
        if numbers != first_digest:
            raise CorruptError(
                f"workers 0 and {other} begin at step {step:.0f} with different weights",
                hint="all machines need the same checkpoints and the same version of torch",
            )


def gather(values: list[float], sync: Sync, rank: int, world_size: int) -> list[list[float]]:
    """Every worker's values, by rank: each adds its own into a row of zeros."""
    n = len(values)
    rows = [values if r == rank else [0.0] * n for r in range(world_size)]
    flat = sync.sum_values([value for row in rows for value in row])
    return [flat[n * r : n * (r + 1)] for r in range(world_size)]


def digest(tensors: dict[str, Tensor]) -> int:
    """A number for names and bytes of tensors, of `_DIGEST_BITS` bits."""
    total = sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensor_bytes(tensors[name]))
    return int.from_bytes(total.digest()[: _DIGEST_BITS // 8], "big")
