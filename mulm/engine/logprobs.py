"""Log-probabilities of tokens, of the distribution that the model gives before any change.

Called by the sampler and, for prompts, by the engine. Invariant: of equal logits the lowest id is
the largest, as for the sampler, so a greedy token is the first of its alternatives. Shape letters:
R rows, V vocabulary, K alternatives, C candidates of a row.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mulm.engine.penalties import is_changed
from mulm.engine.request import Sequence
from mulm.messages import TokenLogprob


def logprobs_of(logits_RV: Tensor, ids: Items[int], n_top: int) -> list[TokenLogprob]:
    """For each row that of its token, and of the `n_top` likeliest in its place."""
    rows_R = torch.arange(len(ids), device=logits_RV.device)
    total_R = log_total(logits_RV)
    ids_R = torch.tensor(ids, dtype=torch.long, device=logits_RV.device)
    own = (logits_RV[rows_R, ids_R] - total_R).tolist()
    if not n_top:
        return [TokenLogprob(i, x) for i, x in zip(ids, own, strict=True)]
    top_RK, ids_RK = _largest(logits_RV, min(n_top, logits_RV.shape[-1]))
    values, alternatives = (top_RK - total_R[:, None]).tolist(), ids_RK.tolist()
    return [
        TokenLogprob(ids[r], own[r], tuple(zip(alternatives[r], values[r], strict=True)))
        for r in range(len(ids))
    ]


def _largest(logits_RV: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Logits and ids (R, K) of the `n` largest, in order; of equal ones those of the lowest ids.

    `topk` takes any of those that equal the last one, so rows that have more are looked at again.
    """
    values_RK, ids_RK = logits_RV.topk(n, dim=-1)
    ids_RK, order_RK = ids_RK.sort(dim=-1)
    values_RK, order_RK = values_RK.gather(1, order_RK).sort(dim=-1, descending=True, stable=True)
    ids_RK = ids_RK.gather(1, order_RK)
    n_candidates_R = (logits_RV >= values_RK[:, -1:]).sum(dim=-1)
    for row in (n_candidates_R > n).nonzero()[:, 0].tolist():
        ids_C = (logits_RV[row] >= values_RK[row, -1]).nonzero()[:, 0]
        order_C = logits_RV[row, ids_C].sort(descending=True, stable=True).indices
        ids_RK[row] = ids_C[order_C[:n]]
    return values_RK, ids_RK


def log_total(logits_RV: Tensor) -> Tensor:
    """The logarithm of each row's sum of exponentials.

    The likeliest token has probability exp(largest - total). This has one order of summation for
    a row in any batch, which `logsumexp` has not, and is faster.
    """
    return logits_RV.amax(dim=-1) - logits_RV.softmax(dim=-1).amax(dim=-1).log()


class RawRows:
    """The rows that somebody wants to know more about, as the model gave them.

    Args:
        logits_RV: May be changed afterwards.
        sequences: Whose rows they are.
    """

    def __init__(self, logits_RV: Tensor, sequences: Items[Sequence]) -> None:
        groups: dict[int, list[int]] = {}
        for row, sequence in enumerate(sequences):
            if sequence.wants_logprobs:
                groups.setdefault(sequence.sampling.logprobs or 0, []).append(row)
        self._groups: list[tuple[int, list[int], Tensor]] = []
        for n_top, rows in groups.items():
            is_all = len(rows) == len(sequences)
            mine_RV = logits_RV if is_all else logits_RV[rows]
            if is_all and any(map(is_changed, sequences)):
                mine_RV = logits_RV.clone()
            self._groups.append((n_top, rows, mine_RV))

    def describe(self, ids: Items[int]) -> dict[int, TokenLogprob]:
        """What became of the rows, by row."""
        found: dict[int, TokenLogprob] = {}
        for n_top, rows, mine_RV in self._groups:
            described = logprobs_of(mine_RV, [ids[row] for row in rows], n_top)
            found |= zip(rows, described, strict=True)
        return found
