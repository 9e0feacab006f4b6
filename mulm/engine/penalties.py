"""What requests change of their logits before a token is drawn: penalties, bias, what may not be.

Called by the sampler with the rows that ask for it, all at once. Invariant: a row changes by its
own request and tokens only. Shape letters: R rows, V vocabulary, U touched logits of all rows, W
words of 32 bits, X bytes.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from mulm.engine.request import Sequence
from mulm.engine.tally import Tally

_LAST_RESORT = -1e30
"""A stop token's logit before `min_tokens`: it still comes where a grammar allows nothing else."""


def is_changed(sequence: Sequence) -> bool:
    """Whether the request asks for anything of this."""
    return bool(sequence.sampling.logit_bias) or is_changed_by_answer(sequence)


def is_changed_by_answer(sequence: Sequence) -> bool:
    """Whether what the request asks for depends on what has been generated."""
    return _has_penalties(sequence) or _is_held_back(sequence) or sequence.constraint is not None


def change(logits_RV: Tensor, rows: Items[int], sequences: Items[Sequence]) -> None:
    """Change these rows in place.

    Repetition divides positive logits of every token seen in prompt and answer, and multiplies
    negative ones (Keskar et al., 2019); presence and frequency are subtracted for tokens of the
    answer, as OpenAI documents; then bias, then what is forbidden.
    """
    if punished := [row for row in rows if _has_penalties(sequences[row])]:
        _punish(logits_RV, punished, sequences)
    if biased := [row for row in rows if sequences[row].sampling.logit_bias]:
        pairs = [sequences[row].sampling.logit_bias for row in biased]
        at = _at_each(logits_RV, biased, [[token_id for token_id, _ in given] for given in pairs])
        biases = [bias for given in pairs for _, bias in given]
        logits_RV.index_put_(at, logits_RV.new_tensor(biases), accumulate=True)
    if held := [row for row in rows if _is_held_back(sequences[row])]:
        at = _at_each(
            logits_RV, held, [list(sequences[row].sampling.stop_token_ids) for row in held]
        )
        logits_RV[at] = _LAST_RESORT
    if constrained := [row for row in rows if sequences[row].constraint is not None]:
        _forbid(logits_RV, constrained, sequences)


def _has_penalties(sequence: Sequence) -> bool:
    p = sequence.sampling
    return p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0


def _is_held_back(sequence: Sequence) -> bool:
    p = sequence.sampling
    return bool(p.stop_token_ids) and sequence.n_generated < p.min_tokens


def _punish(logits_RV: Tensor, rows: Items[int], sequences: Items[Sequence]) -> None:
    found = [_tally(sequences[row]).now() for row in rows]
    params = [sequences[row].sampling for row in rows]
    sizes_R = torch.tensor([len(ids_U) for ids_U, _ in found])
    at = _at(logits_RV, rows, torch.cat([ids_U for ids_U, _ in found]), sizes_R)
    counts_U = torch.cat([counts_U for _, counts_U in found])

    def spread(values: list[float]) -> Tensor:
        return torch.tensor(values).repeat_interleave(sizes_R)

    factor_U = spread([p.repetition_penalty for p in params]).to(logits_RV.device)
    loss_U = spread([p.frequency_penalty for p in params]) * counts_U
    loss_U += spread([p.presence_penalty for p in params]) * (counts_U > 0)
    seen_U = logits_RV[at]
    seen_U = torch.where(seen_U > 0, seen_U / factor_U, seen_U * factor_U)
    logits_RV[at] = seen_U - loss_U.to(logits_RV.device)


def _tally(sequence: Sequence) -> Tally:
    if sequence.tally is None:
        has_prompt = sequence.sampling.repetition_penalty != 1.0
        sequence.tally = Tally(sequence.token_ids, sequence.n_prompt, has_prompt=has_prompt)
    return sequence.tally


def _forbid(logits_RV: Tensor, rows: Items[int], sequences: Items[Sequence]) -> None:
    """Add minus infinity to what constraints forbid: eight tokens at a time, by table.

    A masked fill takes nine times as long, for its branches.
    """
    vocab_size = logits_RV.shape[1]
    mask_W = torch.zeros(-(-vocab_size // 32), dtype=torch.int32)
    bytes_X = mask_W.view(torch.uint8)
    for row in rows:
        constraint = sequences[row].constraint
        assert constraint is not None
        mask_W.zero_()
        constraint.fill_mask(mask_W)
        addend_V = _ADDEND_OF_BYTE.index_select(0, bytes_X.int()).flatten()[:vocab_size]
        logits_RV[row] += addend_V.to(logits_RV.device)


_ADDEND_OF_BYTE = torch.where(
    (torch.arange(256)[:, None] >> torch.arange(8)) & 1 == 1, 0.0, -torch.inf
)


def _at(
    logits_RV: Tensor, rows: Items[int], ids_U: Tensor, sizes_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Where in the matrix these token ids are, so many of each row."""
    rows_U = torch.tensor(rows).repeat_interleave(sizes_R)
    return rows_U.to(logits_RV.device), ids_U.to(logits_RV.device)


def _at_each(logits_RV: Tensor, rows: Items[int], ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids_U = torch.tensor([token_id for some in ids for token_id in some], dtype=torch.long)
    return _at(logits_RV, rows, ids_U, torch.tensor([len(some) for some in ids]))
