"""What is told of a prompt itself: its tokens' log-probabilities, and its mean hidden state.

Called by the engine for each piece of such a prompt that a step has read. Invariant: what comes out
does not depend on how the prompt was cut into pieces, up to the rounding of a sum.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mulm.engine.logprobs import logprobs_of
from mulm.engine.request import Sequence
from mulm.engine.scheduler import Work

_LOGIT_ROWS = 64
"""Rows whose logits are in memory at once."""


def look_at_rows(work: Work, hidden_RD: Tensor, logits: Callable[[Tensor], Tensor]) -> None:
    """Note what the request wants of these rows of its prompt."""
    sequence = work.sequence
    if sequence.request.is_embedding:
        piece_D = hidden_RD.float().sum(dim=0)
        before_D = sequence.hidden_sum_D
        sequence.hidden_sum_D = piece_D if before_D is None else before_D + piece_D
    n_top = sequence.sampling.prompt_logprobs
    if n_top is None:
        return
    found = sequence.prompt_logprobs
    if not found:
        found.append(None)
    begin = sequence.n_cached + 1
    following = sequence.token_ids[begin : begin + len(hidden_RD)][: sequence.n_prompt - begin]
    for at in range(0, len(following), _LOGIT_ROWS):
        ids = following[at : at + _LOGIT_ROWS]
        logits_RV = logits(hidden_RD[at : at + len(ids)].contiguous())
        found += logprobs_of(logits_RV, ids, n_top)


def mean_hidden(sequence: Sequence) -> tuple[float, ...]:
    """The mean of the prompt's last hidden states; empty where nobody asked for it."""
    if sequence.hidden_sum_D is None:
        return ()
    mean: list[float] = (sequence.hidden_sum_D / sequence.n_prompt).tolist()
    return tuple(mean)
