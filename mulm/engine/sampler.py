"""Chooses the next token of each row.

Called by the engine with the rows that finished a step. Invariant: a row's token depends on its own
logits and request only: rows are grouped by what *they* ask for, sums are taken along rows, and the
random number is a pure function of seed, choice and position.

Shape letters: R rows, V vocabulary, N blocks of a row, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from mulm.engine.draws import uniform
from mulm.engine.logprobs import logprobs_of
from mulm.engine.penalties import change, is_changed
from mulm.engine.request import Sequence
from mulm.messages import SamplingParams, TokenLogprob

_BLOCK = 256
_CANDIDATES = 128
"""The likeliest tokens among which truncated sampling looks before it sorts the vocabulary."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and its log-probability where it was asked for."""

    token_id: int
    logprob: TokenLogprob | None = None


def sample(logits_RV: Tensor, sequences: Items[Sequence]) -> list[Sampled]:
    """One token for each row; `logits_RV` are fp32 and stay as they are."""
    changed = [r for r, s in enumerate(sequences) if is_changed(s)]
    ready_RV = logits_RV.clone() if changed else logits_RV
    for row in changed:
        change(ready_RV[row], sequences[row])
    ids: list[int] = ready_RV.argmax(dim=-1).tolist()
    groups: dict[Callable[..., list[int]], list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.sampling.temperature > 0:
            pick = _pick_truncated if _is_truncated(sequence.sampling) else _pick_any
            groups.setdefault(pick, []).append(row)
    for pick, rows in groups.items():
        drawn = pick(_tempered(ready_RV, sequences, rows), [sequences[row] for row in rows])
        for row, token_id in zip(rows, drawn, strict=True):
            ids[row] = token_id
    return _with_logprobs(logits_RV, sequences, ids)


def _is_truncated(p: SamplingParams) -> bool:
    return p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0


def _tempered(logits_RV: Tensor, sequences: Items[Sequence], rows: list[int]) -> Tensor:
    """Logits over temperature, the largest of each row at zero."""
    chosen_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]
    chosen_RV = chosen_RV - chosen_RV.amax(dim=-1, keepdim=True)
    return chosen_RV / _column([sequences[row].sampling.temperature for row in rows], chosen_RV)


def _pick_any(logits_RV: Tensor, sequences: Items[Sequence]) -> list[int]:
    """Invert the cumulative distribution: first find the block of tokens, then the token in it."""
    weights_RNB = _blocks(logits_RV.exp())
    ends_RN = weights_RNB.sum(dim=-1).double().cumsum(dim=-1)
    target_R1 = _draws(sequences, logits_RV) * ends_RN[:, -1:]
    block_R1 = _first_above(ends_RN, target_R1)
    before_R1 = torch.where(block_R1 > 0, ends_RN.gather(1, (block_R1 - 1).clamp(min=0)), 0.0)
    inside_RB = weights_RNB.gather(1, block_R1[:, :, None].expand(-1, 1, _BLOCK))[:, 0].double()
    ends_RB = inside_RB.cumsum(dim=-1)
    # Rounding may end a block's sum below the target: its last token that can be is meant.
    target_R1 = (target_R1 - before_R1).clamp(max=ends_RB[:, -1:] * (1 - 1e-12))
    place_R1 = _first_above(ends_RB, target_R1)
    ids: list[int] = (block_R1 * _BLOCK + place_R1)[:, 0].tolist()
    return ids


def _pick_truncated(logits_RV: Tensor, sequences: Items[Sequence]) -> list[int]:
    """Draw among the likeliest; the whole vocabulary is sorted only where they do not suffice."""
    vocab_size = logits_RV.shape[-1]
    ids, is_sure = _pick_among(logits_RV, sequences, min(_CANDIDATES, vocab_size))
    for row, sequence in enumerate(sequences):
        if not is_sure[row]:
            ids[row] = _pick_among(logits_RV[row : row + 1], [sequence], vocab_size)[0][0]
    return ids


def _pick_among(
    logits_RV: Tensor, sequences: Items[Sequence], n_candidates: int
) -> tuple[list[int], list[bool]]:
    """Draw after `top_k`, `min_p` and then `top_p` of what is left; and whether none was missed."""
    params, vocab_size = [s.sampling for s in sequences], logits_RV.shape[-1]
    values_RC, places_RC = logits_RV.topk(n_candidates, dim=-1)
    values_RC = values_RC.double()
    top_k_R1 = _column([p.top_k or vocab_size for p in params], values_RC)
    least_R1 = _column([math.log(p.min_p) if p.min_p else -math.inf for p in params], values_RC)
    top_p_R1 = _column([p.top_p for p in params], values_RC)
    rank_C = torch.arange(n_candidates, device=logits_RV.device)
    is_in_RC = (rank_C < top_k_R1) & (values_RC >= least_R1)
    weights_RC = torch.where(is_in_RC, values_RC.exp(), 0.0)
    ends_RC = weights_RC.cumsum(dim=-1)
    has_all_R1 = ~is_in_RC[:, -1:] | (top_k_R1 <= n_candidates) | (n_candidates == vocab_size)
    everything_R1 = _blocks(logits_RV.exp()).sum(dim=-1).double().sum(dim=-1, keepdim=True)
    total_R1 = torch.where(has_all_R1, ends_RC[:, -1:], everything_R1)
    is_open_R1 = torch.isinf(least_R1) & (top_k_R1 >= vocab_size)
    is_sure_R1 = has_all_R1 | (is_open_R1 & (ends_RC[:, -1:] >= top_p_R1 * total_R1))
    # A token stays if those before it do not yet reach `top_p`; the first always does.
    stays_RC = (ends_RC - weights_RC < top_p_R1 * total_R1) | (rank_C == 0)
    weights_RC = torch.where(stays_RC, weights_RC, 0.0)
    ends_RC = weights_RC.cumsum(dim=-1)
    target_R1 = _draws(sequences, logits_RV) * ends_RC[:, -1:] * (1 - 1e-15)
    place_R1 = _first_above(ends_RC, target_R1)
    last_R1 = (weights_RC > 0).sum(dim=-1, keepdim=True) - 1
    ids = places_RC.gather(1, torch.minimum(place_R1, last_R1))[:, 0]
    return ids.tolist(), is_sure_R1[:, 0].tolist()


def _blocks(weights_RV: Tensor) -> Tensor:
    """(R, N, 256): rows in blocks, so that sums have one order whatever the number of rows."""
    padded_RV = torch.nn.functional.pad(weights_RV, (0, -weights_RV.shape[-1] % _BLOCK))
    return padded_RV.view(len(weights_RV), -1, _BLOCK)


def _draws(sequences: Items[Sequence], like: Tensor) -> Tensor:
    """(R, 1), in fp64."""
    numbers = [[uniform(s.seed, s.index, s.n_generated)] for s in sequences]
    return torch.tensor(numbers, dtype=torch.float64, device=like.device)


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    found = torch.searchsorted(ends, target, right=True)
    return found.clamp(max=ends.shape[-1] - 1)


def _with_logprobs(logits_RV: Tensor, sequences: Items[Sequence], ids: list[int]) -> list[Sampled]:
    rows = [r for r, s in enumerate(sequences) if _wants_logprobs(s)]
    if not rows:
        return [Sampled(token_id) for token_id in ids]
    n_top = max(sequences[row].sampling.logprobs or 0 for row in rows)
    found = logprobs_of(logits_RV[rows], [ids[row] for row in rows], n_top)
    by_row = dict(zip(rows, found, strict=True))
    return [Sampled(i, _cut(by_row.get(r), sequences[r])) for r, i in enumerate(ids)]


def _wants_logprobs(sequence: Sequence) -> bool:
    request = sequence.request
    return sequence.sampling.logprobs is not None or request.best_of > request.n


def _cut(logprob: TokenLogprob | None, sequence: Sequence) -> TokenLogprob | None:
    """As many alternatives as this request asked for."""
    if logprob is None:
        return None
    n_top = sequence.sampling.logprobs or 0
    return TokenLogprob(logprob.token_id, logprob.logprob, logprob.top[:n_top])


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
