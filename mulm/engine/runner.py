"""Runs the model for a step's plan: reads prompts, one token for each running stream.

Called by the engine. Invariant: afterwards `n_cached` of each sequence says exactly what its
slot holds. Rows of a decode batch do not read each other; their last bits may still depend on the
batch size, because matrix kernels choose their summation order by shape.

Shape letters: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor

from mulm.engine.request import Sequence
from mulm.engine.scheduler import Prefill, StepPlan


class LanguageModel(Protocol):
    """What the engine asks of a model; a tiny fake one serves in tests."""

    config: Any
    """Has at least `vocab_size` and `max_seq_len`."""

    def prefill(self, ids_T: Tensor, cache: Any, slot: int, position: int) -> Tensor:
        """Append T tokens to a slot that holds `position` tokens; logits_V after the last."""

    def decode(self, ids_B: Tensor, cache: Any, slots_B: Tensor, positions_B: Tensor) -> Tensor:
        """Append one token to each of B slots; logits_BV."""


class Runner:
    """The model, its cache and its device."""

    def __init__(self, model: LanguageModel, cache: Any, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> list[tuple[Sequence, Tensor]]:
        """Carry out a plan; returns (sequence, logits_V) of all that now get a token."""
        decoded = self._decode(plan.decodes)
        prefilled = [(p, self._prefill(p)) for p in plan.prefills]
        return decoded + [
            (p.sequence, logits_V) for p, logits_V in prefilled if logits_V is not None
        ]

    def _prefill(self, prefill: Prefill) -> Tensor | None:
        """Read a piece of a prompt; logits only when that was its last piece."""
        sequence, completes = prefill.sequence, prefill.completes_prompt
        assert sequence.slot is not None
        start = sequence.n_cached
        ids_T = self._tensor(sequence.token_ids[start : start + prefill.n_tokens])
        logits_V = self._model.prefill(ids_T, self._cache, sequence.slot, start)
        sequence.n_cached += prefill.n_tokens
        return logits_V if completes else None

    def _decode(self, sequences: Items[Sequence]) -> list[tuple[Sequence, Tensor]]:
        if not sequences:
            return []
        ids_B = self._tensor([s.token_ids[-1] for s in sequences])
        slots_B = self._tensor([s.slot for s in sequences])
        positions_B = self._tensor([s.n_cached for s in sequences])
        logits_BV = self._model.decode(ids_B, self._cache, slots_B, positions_B)
        for sequence in sequences:
            sequence.n_cached += 1
        return list(zip(sequences, logits_BV.unbind(0), strict=True))

    def _tensor(self, values: Items[int | None]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)
