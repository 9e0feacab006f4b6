"""Guesses that an answer goes on as the same few tokens went on before, in prompt or answer.

A `Proposer` (Saxena, 2023: prompt lookup decoding), for code, quotations and corrections of a text.
It costs a few look-ups in a dictionary for each token, however long the text is. The newest place
counts, of the longest run of tokens that has one.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

from mulm.engine.request import Sequence

_LONGEST, _SHORTEST = 4, 2
"""Tokens of a run."""


class PromptLookup:
    """Knows where each run of tokens of each running stream ended last."""

    def __init__(self) -> None:
        self._runs: list[Runs | None] = []

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None:  # noqa: ARG002
        """As `Proposer.start`."""
        self._runs = [None] * n_slots

    def propose(self, sequences: Items[Sequence], counts: Items[int]) -> list[list[int]]:
        """As `Proposer.propose`."""
        return [
            self._of(sequence).following(count)
            for sequence, count in zip(sequences, counts, strict=True)
        ]

    def _of(self, sequence: Sequence) -> Runs:
        assert sequence.slot is not None
        runs = self._runs[sequence.slot]
        if runs is None or runs.token_ids is not sequence.token_ids:
            runs = self._runs[sequence.slot] = Runs(sequence.token_ids)
        return runs


class Runs:
    """The runs of one text, which grows at its end."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids
        self._place_after: dict[tuple[int, ...], int] = {}
        self._n_seen = 0

    def following(self, count: int) -> list[int]:
        """What followed the text's last tokens where they stood before."""
        self._see()
        ids = self.token_ids
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            place = self._place_after.get(tuple(ids[-size:]))
            if place is not None:
                distance = len(ids) - place
                return [ids[place + n % distance] for n in range(count)]
        return []

    def _see(self) -> None:
        """Note the runs that something follows."""
        ids = self.token_ids
        for end in range(self._n_seen + 1, len(ids)):
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._place_after[tuple(ids[end - size : end])] = end
        self._n_seen = max(len(ids) - 1, 0)
