"""Chooses the next token of each row.

Called by the engine with the rows that finished a step. Invariant: a row's token depends on its
own logits, parameters and generator only: rows are grouped by what *they* ask for, and each
takes exactly one random number from its own generator.

Shape letters: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mulm.messages import SamplingParams


def sample(
    logits_BV: Tensor, params: Items[SamplingParams], generators: Items[torch.Generator]
) -> list[int]:
    """One token id for each row.

    Args:
        logits_BV: Any floating type and device.
        params: B of them.
        generators: B generators on the CPU; only those of rows that are not greedy advance.
    """
    ids_B = logits_BV.argmax(dim=-1).cpu()
    for is_truncated in (False, True):
        rows = [
            row
            for row, p in enumerate(params)
            if p.temperature > 0 and _is_truncated(p) is is_truncated
        ]
        if rows:
            chosen = [params[row] for row in rows]
            logits = _tempered(logits_BV[rows], chosen)
            uniform = _uniform([generators[row] for row in rows], logits.device)
            pick = _pick_truncated if is_truncated else _pick
            ids_B[rows] = pick(logits, chosen, uniform).cpu()
    return [int(token_id) for token_id in ids_B.tolist()]


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0


def _tempered(logits_BV: Tensor, params: Items[SamplingParams]) -> Tensor:
    """Logits over temperature in double precision, the largest of each row at zero."""
    logits_BV = logits_BV.double()
    logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
    return logits_BV / _column([p.temperature for p in params], logits_BV)


def _uniform(generators: Items[torch.Generator], device: torch.device) -> Tensor:
    draws = [torch.rand(1, generator=g, dtype=torch.float64) for g in generators]
    return torch.cat(draws).to(device)


def _pick(logits_BV: Tensor, _params: Items[SamplingParams], uniform_B: Tensor) -> Tensor:
    """Invert the cumulative distribution at one uniform number a row."""
    cumulative_BV = logits_BV.softmax(dim=-1).cumsum(dim=-1)
    threshold_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    ids_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True)
    return ids_B1[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def _pick_truncated(logits_BV: Tensor, params: Items[SamplingParams], uniform_B: Tensor) -> Tensor:
    """Keep the `top_k` likeliest, then the smallest set of those that holds `top_p`."""
    vocab_size = logits_BV.shape[-1]
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(vocab_size, device=logits_BV.device)
    top_k_B1 = _column([p.top_k or vocab_size for p in params], sorted_BV)
    sorted_BV = sorted_BV.masked_fill(rank_V >= top_k_B1, -torch.inf)
    probability_BV = sorted_BV.softmax(dim=-1)
    before_BV = probability_BV.cumsum(dim=-1) - probability_BV
    is_out_BV = (before_BV >= _column([p.top_p for p in params], sorted_BV)) & (rank_V > 0)
    rank_B = _pick(sorted_BV.masked_fill(is_out_BV, -torch.inf), params, uniform_B)
    return order_BV.gather(-1, rank_B[:, None])[:, 0]


def _column(values: Items[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]
