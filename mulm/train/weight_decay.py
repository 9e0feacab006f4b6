"""Weight decay: which weights shrink, and how.

Used by the rules of the optimizer. Invariant: embeddings and gains never decay.
"""

from __future__ import annotations

from torch import Tensor


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix inside a block: neither embedding nor gain."""
    return parameter.ndim == 2 and name.startswith("blocks.")


def decay(weights: Tensor, update: Tensor | None, rate: float) -> None:
    """Shrink weights; with an update, which is subtracted, only those that it shrinks as well.

    So a number is never pulled back on its way out (cautious weight decay, Chen et al., 2025).
    """
    if update is None:
        weights.mul_(1 - rate)
    else:
        weights.sub_(weights * (weights * update > 0), alpha=rate)
