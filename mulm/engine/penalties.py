"""What a request adds to its logits before a token is drawn: penalties, bias, what may not be.

Called by the sampler with the rows that ask for it. Invariant: a row changes by its own request and
tokens only. Shape letters: V vocabulary, U different tokens, W words of 32 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mulm.engine.request import Sequence

_BIT_W = torch.arange(32, dtype=torch.int32)


def is_changed(sequence: Sequence) -> bool:
    """Whether the request asks for anything of this."""
    p = sequence.sampling
    return (
        p.repetition_penalty != 1.0
        or p.presence_penalty != 0.0
        or p.frequency_penalty != 0.0
        or bool(p.logit_bias)
        or sequence.n_generated < p.min_tokens
        or sequence.constraint is not None
    )


def change(logits_V: Tensor, sequence: Sequence) -> None:
    """Change one row in place.

    Repetition divides positive logits of every token seen in prompt and answer, and multiplies
    negative ones (Keskar et al., 2019); presence and frequency are subtracted for tokens of the
    answer, as OpenAI documents; then bias, then what is forbidden.
    """
    p = sequence.sampling
    if p.repetition_penalty != 1.0:
        ids_U = _ids(set(sequence.token_ids), logits_V)
        seen_U = logits_V[ids_U]
        factor = p.repetition_penalty
        logits_V[ids_U] = torch.where(seen_U > 0, seen_U / factor, seen_U * factor)
    if p.presence_penalty or p.frequency_penalty:
        _subtract(logits_V, sequence)
    if p.logit_bias:
        ids_U = _ids([token_id for token_id, _ in p.logit_bias], logits_V)
        logits_V.index_add_(0, ids_U, _like([bias for _, bias in p.logit_bias], logits_V))
    is_held = sequence.constraint is not None and _forbid(logits_V, sequence)
    if sequence.n_generated < p.min_tokens and p.stop_token_ids and not is_held:
        logits_V[_ids(p.stop_token_ids, logits_V)] = -torch.inf


def _subtract(logits_V: Tensor, sequence: Sequence) -> None:
    p, counts = sequence.sampling, sequence.counts
    if counts is None:
        counts = sequence.counts = {}
        for token_id in sequence.answer_ids:
            counts[token_id] = counts.get(token_id, 0) + 1
    if counts:
        penalty = _like(list(counts.values()), logits_V) * p.frequency_penalty + p.presence_penalty
        logits_V.index_add_(0, _ids(counts, logits_V), -penalty)


def _forbid(logits_V: Tensor, sequence: Sequence) -> bool:
    """Leave what the grammar allows; whether that is the end alone, which then goes first."""
    assert sequence.constraint is not None
    vocab_size = len(logits_V)
    mask_W = torch.zeros(-(-vocab_size // 32), dtype=torch.int32)
    sequence.constraint.fill_mask(mask_W)
    allowed_V = ((mask_W[:, None] >> _BIT_W) & 1).flatten()[:vocab_size].bool()
    logits_V.masked_fill_(~allowed_V.to(logits_V.device), -torch.inf)
    return sequence.constraint.is_done


def _ids(ids: object, like: Tensor) -> Tensor:
    return torch.tensor(list(ids), dtype=torch.long, device=like.device)  # type: ignore[call-overload]


def _like(values: list[float] | list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)
