"""Which tokens `top_k`, `min_p` and `top_p` leave, and the draw among them.

Called by the sampler. The likeliest 128 tokens of a row mostly hold all that is left; where they do
not, the row's threshold is found from a histogram of its weights: nothing sorts the vocabulary.
Invariant: what is left is what sorting everything leaves; ties with the last token kept are kept.

Shape letters: R rows, V vocabulary, C candidates, S size of a group, N groups or blocks, B tokens
of a block.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mulm.engine.draws import BLOCK, race
from mulm.messages import SamplingParams

_CANDIDATES = 128
_GROUP = 16
_DROPPED_BITS = 18
"""Of a weight's fp32 form: what is left numbers its bucket, 32 to an octave."""


def is_truncated(p: SamplingParams) -> bool:
    """Whether the request leaves tokens out."""
    return p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0


def draw_truncated(
    weights_RV: Tensor, params: Items[SamplingParams], times_RX: Tensor
) -> list[int]:
    """A token for each row.

    Args:
        weights_RV: Probabilities, fp32.
        params: What cuts each row.
        times_RX: Of the blocks, then of the tokens of a block; on the CPU.
    """
    vocab_size = weights_RV.shape[1]
    values_RC, ids_RC = (x.cpu() for x in _likeliest(weights_RV))
    least_R1, is_sure_R1 = _least(values_RC.double(), params, vocab_size)
    kept_RC = torch.where(values_RC >= least_R1, values_RC, 0.0)
    ids = _draw_among(kept_RC, ids_RC, times_RX)
    for row, (is_sure,) in enumerate(is_sure_R1.tolist()):
        if not is_sure:
            ids[row] = _draw_anywhere(
                weights_RV[row].cpu().nan_to_num(), params[row], times_RX[row]
            )
    return ids


def _likeliest(weights_RV: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates of each row with their ids, the largest first.

    They are looked for in the groups (every N-th token) that have the largest maxima: a maximum
    costs less than a selection.
    """
    vocab_size = weights_RV.shape[1]
    if vocab_size % _GROUP or vocab_size < 4 * _GROUP * _CANDIDATES:
        return weights_RV.topk(min(_CANDIDATES, vocab_size), dim=-1)
    groups_RSN = weights_RV.view(len(weights_RV), _GROUP, -1)
    n_groups = groups_RSN.shape[2]
    best_RC = groups_RSN.amax(dim=1).topk(_CANDIDATES, dim=-1, sorted=False).indices
    inside_RSC = groups_RSN.gather(2, best_RC[:, None].expand(-1, _GROUP, -1))
    values_RC, places_RC = inside_RSC.flatten(1).topk(_CANDIDATES, dim=-1)
    group_RC = best_RC.gather(1, places_RC % _CANDIDATES)
    return values_RC, places_RC // _CANDIDATES * n_groups + group_RC


def _least(
    values_RC: Tensor, params: Items[SamplingParams], vocab_size: int
) -> tuple[Tensor, Tensor]:
    """The smallest weight that each row keeps; and whether all kept tokens are candidates."""
    n_candidates = values_RC.shape[1]
    top_p_R1 = values_RC.new_tensor([p.top_p for p in params])[:, None]
    last_R1 = values_RC[:, -1:]
    places = [min(p.top_k or vocab_size, n_candidates) - 1 for p in params]
    at_top_k_R1 = values_RC.gather(1, torch.tensor(places)[:, None])
    has_top_k_R1 = torch.tensor([0 < p.top_k <= n_candidates for p in params])[:, None]
    least_R1 = values_RC.new_tensor([p.min_p for p in params])[:, None] * values_RC[:, :1]
    least_R1 = torch.where(has_top_k_R1, torch.maximum(least_R1, at_top_k_R1), least_R1)
    has_all_R1 = (last_R1 < least_R1) | (n_candidates == vocab_size)
    ends_RC = torch.where(values_RC >= least_R1, values_RC, 0.0).cumsum(dim=-1)
    target_R1 = top_p_R1 * torch.where(has_all_R1, ends_RC[:, -1:], 1.0)
    n_before_R1 = (ends_RC < target_R1).sum(dim=-1, keepdim=True)
    at_top_p_R1 = values_RC.gather(1, n_before_R1.clamp(max=n_candidates - 1))
    is_cut_R1 = (top_p_R1 < 1) & (n_before_R1 < n_candidates)
    # Without all that `top_k` and `min_p` leave, `top_p` knows its total only where they cut none.
    is_open_R1 = torch.tensor([not (p.top_k or p.min_p) for p in params])[:, None]
    least_R1 = torch.where(is_cut_R1, torch.maximum(least_R1, at_top_p_R1), least_R1)
    return least_R1, has_all_R1 | (is_cut_R1 & is_open_R1 & (last_R1 < least_R1))


def _draw_among(kept_RC: Tensor, ids_RC: Tensor, times_RX: Tensor) -> list[int]:
    """The winners of two races: of the blocks, then of a block's tokens."""
    n_blocks = times_RX.shape[1] - BLOCK
    block_RC = ids_RC // BLOCK
    sums_RN = torch.zeros(len(kept_RC), n_blocks).scatter_add_(1, block_RC, kept_RC)
    winner_R1 = race(sums_RN, times_RX[:, :n_blocks])[:, None]
    inside_RC = torch.where(block_RC == winner_R1, kept_RC, 0.0)
    best_R = race(inside_RC, times_RX.gather(1, n_blocks + ids_RC % BLOCK))
    ids: list[int] = ids_RC.gather(1, best_R[:, None])[:, 0].tolist()
    return ids


def _draw_anywhere(weights_V: Tensor, p: SamplingParams, times_X: Tensor) -> int:
    """The same for a row whose candidates do not suffice."""
    least = p.min_p * float(weights_V.max())
    if 0 < p.top_k < len(weights_V):
        least = max(least, _crossing(weights_V, torch.ones_like(weights_V), p.top_k))
    if p.top_p < 1.0:
        left_V = weights_V * (weights_V >= least)
        least = max(least, _crossing(left_V, left_V, p.top_p * float(left_V.sum(dtype=_EXACT))))
    blocks_NB = in_blocks((weights_V * (weights_V >= least))[None])[0]
    n_blocks = len(blocks_NB)
    block = int(race(blocks_NB.sum(dim=-1), times_X[:n_blocks]))
    place = int(race(blocks_NB[block], times_X[n_blocks:]))
    return min(block * BLOCK + place, len(weights_V) - 1)


_EXACT = torch.float64


def _crossing(weights_V: Tensor, masses_V: Tensor, target: float) -> float:
    """The weight of the token with which the masses, the largest weight first, reach a target.

    Positive floats are ordered as their bits are, so the upper bits are a histogram's buckets; only
    the bucket in which the sum crosses is sorted.
    """
    buckets_V = weights_V.view(torch.int32) >> _DROPPED_BITS
    sums = torch.bincount(buckets_V, masses_V.to(_EXACT)).flip(0).cumsum(0)
    place = min(int((sums < target).sum()), len(sums) - 1)
    is_inside_V = buckets_V == len(sums) - 1 - place
    inside, order = weights_V[is_inside_V].sort(descending=True)
    if not len(inside):
        return 0.0  # only where logits are not numbers
    before = float(sums[place - 1]) if place else 0.0
    ends = before + masses_V[is_inside_V][order].to(_EXACT).cumsum(0)
    return float(inside[min(int((ends < target).sum()), len(inside) - 1)])


def in_blocks(weights_RV: Tensor) -> Tensor:
    """(R, N, B), the last block filled up with zeros."""
    rest = -weights_RV.shape[-1] % BLOCK
    if rest:
        weights_RV = torch.nn.functional.pad(weights_RV, (0, rest))
    return weights_RV.view(len(weights_RV), -1, BLOCK)
