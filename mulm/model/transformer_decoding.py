"""Decoding: from a source to the target that a sequence-to-sequence model finds likely.

Called with a `Transformer` or anything else that has the two methods of `Seq2Seq`. Greedy takes the
likeliest token each time; beam search keeps several beginnings, as in section 6.1 of the paper.
Invariants: with one beam, beam search is greedy; a row does not depend on the rows beside it.
Shape letters: B sources, S source tokens, W beams of a source, R = B * W rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from mulm.errors import ConfigError

PAPER_BEAMS = 4
PAPER_ALPHA = 0.6


class Cache(Protocol):
    """What a model keeps of rows that are being decoded."""

    def select(self, rows_B: Tensor) -> Self:
        """A cache whose row i is row `rows_B[i]` of this one."""


C = TypeVar("C", bound=Cache)


class Seq2Seq(Protocol[C]):
    """What decoding needs of a model."""

    def start(self, source_BS: Tensor) -> C:
        """Read the sources."""

    def decode_next(self, target_BT: Tensor, cache: C) -> Tensor:
        """Logits (B, T, V) after each of T further target tokens; the cache takes them in."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One decoded target, without its begin and end tokens.

    `log_probability` is that of all its tokens with the end token, in nats; `score` is what
    hypotheses are compared by.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    is_finished: bool


def length_penalty(n_tokens: int, alpha: float) -> float:
    """What a log-probability is divided by, lest short targets always win.

    Wu et al., 2016, "Google's Neural Machine Translation System", equation 14:
    lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha. The end token counts as a token.
    """
    return float((5 + n_tokens) ** alpha / (5 + 1) ** alpha)


@torch.inference_mode()
def decode_greedily(
    model: Seq2Seq[C], source_BS: Tensor, *, begin_id: int, end_id: int, max_tokens: int
) -> list[tuple[int, ...]]:
    """The likeliest next token, again and again, of each source; without begin and end tokens.

    `max_tokens` counts the end token; the paper's bound is the source's length and 50 more
    (section 6.1).

    Raises:
        ConfigError: `max_tokens` is not positive, or more than the model has positions for.
    """
    _check_bound(max_tokens)
    cache = model.start(source_BS)
    next_B1 = source_BS.new_full((len(source_BS), 1), begin_id)
    rows: list[list[int]] = [[] for _ in source_BS]
    is_open = [True] * len(rows)
    for _ in range(max_tokens):
        next_B1 = model.decode_next(next_B1, cache)[:, -1:].argmax(dim=-1)
        for row, token in enumerate(next_B1[:, 0].tolist()):
            is_open[row] = is_open[row] and token != end_id
            if is_open[row]:
                rows[row].append(token)
        if not any(is_open):
            break
    return [tuple(row) for row in rows]


@torch.inference_mode()
def beam_search(
    model: Seq2Seq[C],
    source_BS: Tensor,
    *,
    begin_id: int,
    end_id: int,
    n_beams: int = PAPER_BEAMS,
    alpha: float = PAPER_ALPHA,
    max_tokens: int,
) -> list[list[Hypothesis]]:
    """The best targets that a beam of `n_beams` finds for each source, best first.

    At each step the `n_beams` likeliest continuations stay; those that end are put aside with their
    score, the log-probability over `length_penalty`. A source is done when nothing that still
    runs could beat its best. What ran into `max_tokens` counts only where nothing ended.

    Raises:
        ConfigError: `n_beams` or `max_tokens` is not positive, or `alpha` is negative.
    """
    if n_beams < 1 or alpha < 0:
        raise ConfigError(
            f"no beam search with {n_beams} beams and a length penalty of {alpha}",
            hint="use at least 1 beam and a penalty of 0 or more; the paper has 4 and 0.6",
        )
    _check_bound(max_tokens)
    beams = _Beams(len(source_BS), n_beams, alpha, max_tokens, end_id)
    rows_R = torch.arange(len(source_BS), device=source_BS.device).repeat_interleave(n_beams)
    cache = model.start(source_BS).select(rows_R)
    next_R1 = source_BS.new_full((len(rows_R), 1), begin_id)
    for _ in range(max_tokens):
        log_p_RV = model.decode_next(next_R1, cache)[:, -1].float().log_softmax(dim=-1)
        rows_R, next_R1 = beams.advance(log_p_RV)
        if beams.is_done:
            break
        cache = cache.select(rows_R)
    return [beams.best(source) for source in range(len(source_BS))]


class _Beams:
    """The beginnings of all sources, their log-probabilities, and what has ended."""

    def __init__(self, n_sources: int, n_beams: int, alpha: float, last: int, end_id: int) -> None:
        self._alpha, self._last, self._end_id = alpha, last, end_id
        self._running = torch.full((n_sources, n_beams), -torch.inf)
        self._running[:, 0] = 0.0  # all beams begin alike: one is enough
        self._prefixes: list[list[tuple[int, ...]]] = [[()] * n_beams for _ in range(n_sources)]
        self._ended: list[list[Hypothesis]] = [[] for _ in range(n_sources)]
        self._n_tokens = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing that runs can become the best of its source."""
        return bool((self._running == -torch.inf).all())

    def advance(self, log_p_RV: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the likeliest continuations; returns the row that each extends, and its token."""
        self._n_tokens += 1
        n_sources, n_beams = self._running.shape
        vocab_size = log_p_RV.shape[-1]
        log_p_BWV = log_p_RV.view(n_sources, n_beams, vocab_size)
        total_BWV = self._running.to(log_p_RV.device)[..., None] + log_p_BWV
        chosen_BW, place_BW = total_BWV.flatten(1).topk(n_beams, dim=1)
        beam_BW, token_BW = place_BW // vocab_size, place_BW % vocab_size
        self._running = chosen_BW.cpu()
        for source in range(n_sources):
            self._extend(source, beam_BW[source].tolist(), token_BW[source].tolist())
        first_B1 = torch.arange(n_sources, device=beam_BW.device)[:, None] * n_beams
        return (first_B1 + beam_BW).flatten(), token_BW.reshape(-1, 1)

    def _extend(self, source: int, beams: list[int], tokens: list[int]) -> None:
        before, scores = self._prefixes[source], self._running[source]
        after = [before[b] + (token,) for b, token in zip(beams, tokens, strict=True)]
        self._prefixes[source] = after
        for beam, token in enumerate(tokens):
            if token == self._end_id and scores[beam] > -torch.inf:
                self._ended[source].append(self._hypothesis(after[beam], float(scores[beam])))
                scores[beam] = -torch.inf
        if self._ended[source]:
            best = max(hypothesis.score for hypothesis in self._ended[source])
            if float(scores.max()) / length_penalty(self._last, self._alpha) <= best:
                scores.fill_(-torch.inf)  # log-probabilities only fall, so no better end can come

    def best(self, source: int) -> list[Hypothesis]:
        """What ended, best first; else what still ran."""
        found = self._ended[source] or [
            self._hypothesis(tokens, score)
            for tokens, score in zip(
                self._prefixes[source], self._running[source].tolist(), strict=True
            )
            if score > -torch.inf
        ]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def _hypothesis(self, tokens: tuple[int, ...], log_probability: float) -> Hypothesis:
        is_finished = tokens[-1] == self._end_id
        score = log_probability / length_penalty(len(tokens), self._alpha)
        return Hypothesis(
            tokens[:-1] if is_finished else tokens, log_probability, score, is_finished
        )


def _check_bound(max_tokens: int) -> None:
    if max_tokens < 1:
        raise ConfigError(f"max_tokens {max_tokens} is not positive", hint="use 1 or more")
