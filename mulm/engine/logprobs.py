"""Log-probabilities of tokens, of the distribution that the model gives before any change.

Called by the sampler and, for prompts, by the engine. Shape letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mulm.messages import TokenLogprob


def logprobs_of(logits_RV: Tensor, ids: Items[int], n_top: int) -> list[TokenLogprob]:
    """For each row that of its token, and of the `n_top` likeliest in its place."""
    ids_R1 = torch.tensor(ids, dtype=torch.long, device=logits_RV.device)[:, None]
    total_R1 = logits_RV.logsumexp(dim=-1, keepdim=True)
    own = (logits_RV.gather(-1, ids_R1) - total_R1)[:, 0].tolist()
    if not n_top:
        return [TokenLogprob(i, x) for i, x in zip(ids, own, strict=True)]
    top_RK, places_RK = logits_RV.topk(min(n_top, logits_RV.shape[-1]), dim=-1)
    values, places = (top_RK - total_R1).tolist(), places_RK.tolist()
    return [
        TokenLogprob(ids[r], own[r], tuple(zip(places[r], values[r], strict=True)))
        for r in range(len(ids))
    ]
