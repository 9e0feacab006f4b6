"""Chooses the next token of each row.

Called by the engine with the rows that finished a step. Invariant: a row's token depends on its own
logits and request only, bit for bit: sums are taken along rows in one order, and the random numbers
are a pure function of seed, choice and position.

Rules: of equal logits the lowest id is the largest; `top_k` and `min_p` cut first, `top_p` cuts
what they leave; a token that is as likely as the last one kept is kept as well (as in Hugging
Face). Temperatures below 1e-6 count as that.

Shape letters: R rows, V vocabulary, N blocks of a row, B tokens of a block, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from mulm.engine.draws import BLOCK, exponentials, race
from mulm.engine.logprobs import RawRows
from mulm.engine.penalties import change, is_changed
from mulm.engine.request import Sequence
from mulm.engine.truncation import draw_truncated, in_blocks, is_truncated
from mulm.messages import TokenLogprob

_COLDEST = 1e-6
_PIECE = 16
"""Rows that are drawn at once on a CPU: fresh memory for all their weights costs more than work."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and its log-probability where it was asked for."""

    token_id: int
    logprob: TokenLogprob | None = None


def sample(
    logits_RV: Tensor, sequences: Items[Sequence], ahead: Items[int] | None = None
) -> list[Sampled]:
    """One token for each row.

    Args:
        logits_RV: fp32, on any device; given away: rows are changed in place.
        sequences: Whose rows they are.
        ahead: How many tokens a row lies ahead of its sequence's next one, where tokens are
            guessed; only for sequences whose logits are not changed by what they have generated.
    """
    raw = RawRows(logits_RV, sequences)
    ids = choose(logits_RV, sequences, ahead)
    found = raw.describe(ids)
    return [Sampled(token_id, found.get(row)) for row, token_id in enumerate(ids)]


def choose(
    logits_RV: Tensor, sequences: Items[Sequence], ahead: Items[int] | None = None
) -> list[int]:
    """As `sample`, without anything about the tokens."""
    changed = [r for r, s in enumerate(sequences) if is_changed(s)]
    if changed:
        change(logits_RV, changed, sequences)
    return _ids(logits_RV, sequences, ahead or [0] * len(sequences))


def _ids(logits_RV: Tensor, sequences: Items[Sequence], ahead: Items[int]) -> list[int]:
    params = [s.sampling for s in sequences]
    greedy = [r for r, p in enumerate(params) if p.temperature == 0]
    if len(greedy) == len(params):
        return likeliest(logits_RV)
    cut = [r for r, p in enumerate(params) if p.temperature > 0 and is_truncated(p)]
    whole = [r for r, p in enumerate(params) if p.temperature > 0 and not is_truncated(p)]
    ids = [0] * len(params)
    for rows, pick in ((greedy, _pick_likeliest), (whole, _pick_any), (cut, _pick_truncated)):
        is_whole = pick is _pick_likeliest or logits_RV.device.type != "cpu"
        for piece in _pieces(rows, len(rows) if is_whole else _PIECE):
            mine = logits_RV[piece[0] : piece[-1] + 1]
            if len(mine) > len(piece):
                mine = logits_RV[piece]
            found = pick(mine, [sequences[row] for row in piece], [ahead[row] for row in piece])
            for row, token_id in zip(piece, found, strict=True):
                ids[row] = token_id
    return ids


def _pieces(rows: list[int], size: int) -> list[list[int]]:
    return [rows[at : at + size] for at in range(0, len(rows), size or 1)]


def likeliest(logits_RV: Tensor) -> list[int]:
    """The largest of each row; by way of blocks, because finding a maximum is faster than where."""
    n_rows, vocab_size = logits_RV.shape
    if n_rows == 1 or vocab_size % BLOCK:
        best_R = logits_RV.argmax(dim=-1)
    else:
        blocks_RNB = logits_RV.view(n_rows, -1, BLOCK)
        block_R = blocks_RNB.amax(dim=-1).argmax(dim=-1)
        inside_RB = blocks_RNB[torch.arange(n_rows, device=logits_RV.device), block_R]
        best_R = block_R * BLOCK + inside_RB.argmax(dim=-1)
    ids: list[int] = best_R.tolist()
    return ids


def _pick_likeliest(logits_RV: Tensor, _: Items[Sequence], __: Items[int]) -> list[int]:
    return likeliest(logits_RV)


def _pick_any(logits_RV: Tensor, sequences: Items[Sequence], ahead: Items[int]) -> list[int]:
    """Draw from the whole vocabulary: a block, then a token of it."""
    n_rows, vocab_size = logits_RV.shape
    weights_RNB = in_blocks(_weights(logits_RV, sequences))
    n_blocks = weights_RNB.shape[1]
    times_RX = _times(sequences, ahead, vocab_size).to(logits_RV.device)
    block_R = race(weights_RNB.sum(dim=-1), times_RX[:, :n_blocks])
    inside_RB = weights_RNB[torch.arange(n_rows, device=logits_RV.device), block_R]
    place_R = race(inside_RB, times_RX[:, n_blocks:])
    ids: list[int] = (block_R * BLOCK + place_R).clamp_(max=vocab_size - 1).tolist()
    return ids


def _pick_truncated(logits_RV: Tensor, sequences: Items[Sequence], ahead: Items[int]) -> list[int]:
    times_RX = _times(sequences, ahead, logits_RV.shape[1])
    params = [s.sampling for s in sequences]
    return draw_truncated(_weights(logits_RV, sequences), params, times_RX)


def _weights(logits_RV: Tensor, sequences: Items[Sequence]) -> Tensor:
    """Probabilities at each row's temperature."""
    temperatures = [max(s.sampling.temperature, _COLDEST) for s in sequences]
    if any(temperature != 1.0 for temperature in temperatures):
        logits_RV = logits_RV / logits_RV.new_tensor(temperatures)[:, None]
    return logits_RV.softmax(dim=-1)


def _times(sequences: Items[Sequence], ahead: Items[int], vocab_size: int) -> Tensor:
    asking = [(s.seed, s.index, s.n_generated + n) for s, n in zip(sequences, ahead, strict=True)]
    return exponentials(asking, -(-vocab_size // BLOCK) + BLOCK)
