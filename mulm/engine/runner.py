"""Runs the model for a step's plan: one batch of prompts' pieces and running streams.

Called by the engine. Invariant: rows of a batch do not read each other; with the CPU kernels each
row's numbers are the same bits in any batch, with plain PyTorch the last bits may depend on the
batch's size, because matrix kernels choose their order of summation by shape, unless steps have one
fixed shape (`mulm.engine.static_step`).

Shape letters as in `mulm.model.batch`.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mulm.engine.graph import GraphReport, Recorder, record_all, record_new
from mulm.engine.pages import pages_for
from mulm.engine.scheduler import Work
from mulm.engine.static_probe import Probe
from mulm.engine.static_shapes import Shapes
from mulm.engine.static_step import StaticStep
from mulm.errors import ConfigError
from mulm.model.batch import PAGE_TOKENS, Batch, LanguageModel, RowModel


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model said about a plan: wanted hidden states, work after work."""

    hidden_RD: Tensor
    begins: tuple[int, ...]

    def of(self, number: int) -> Tensor:
        """The wanted rows of one work."""
        return self.hidden_RD[self.begins[number] : self.begins[number + 1]]

    def drawn_rows(self, works: Items[Work], numbers: Items[int]) -> tuple[Tensor, list[int]]:
        """The rows that tokens are drawn from: the last of each of these works, all of a guessed.

        Returns:
            hidden_RD, and how many of its rows belong to each work.
        """
        counts = [1 + len(works[number].guesses) for number in numbers]
        ends = [self.begins[number + 1] for number in numbers]
        rows = [row for end, n in zip(ends, counts, strict=True) for row in range(end - n, end)]
        if rows == list(range(len(self.hidden_RD))):
            return self.hidden_RD, counts
        return self.hidden_RD[rows], counts


class Runner:
    """The model, its cache, and a table of the pages of each slot.

    Args:
        model: Any `LanguageModel`.
        n_slots: Rows of the table.
        n_pages: Pages of the cache.
        max_pages: Pages of one sequence at most.
        batch_invariant: Whether rows must be the same bits in any batch.
        recorder: Records steps of fixed shape as graphs; without one all of them run eagerly.

    Raises:
        ConfigError: rows cannot be the same bits here.
    """

    def __init__(
        self,
        model: LanguageModel,
        n_slots: int,
        n_pages: int,
        max_pages: int,
        *,
        batch_invariant: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self._n_slots, self._n_pages, self._max_pages = n_slots, n_pages, max_pages
        self._batch_invariant, self._recorder = batch_invariant, recorder
        self.graphs: GraphReport | None = None
        self._static: StaticStep | None = None
        self._cache: Any = None
        self._begin(model)
        self._table_SP = torch.zeros(n_slots, max_pages, dtype=torch.int32)
        self._n_written: list[tuple[object, int]] = [(None, 0)] * n_slots

    def run(self, works: Items[Work], adapters: dict[str, int]) -> Outcome:
        """Carry out a plan."""
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        begins, ends = [0], [0]
        for work in works:
            sequence, n = work.sequence, work.n_tokens
            at = sequence.n_cached
            if work.guesses:
                ids += (sequence.token_ids[at], *work.guesses)
                n = 1 + len(work.guesses)
                positions += range(at, at + n)
            elif n == 1:
                ids.append(sequence.token_ids[at])
                positions.append(at)
            else:
                ids += sequence.token_ids[at : at + n]
                positions += range(at, at + n)
            if work.guesses or (sequence.wants_all_rows and not sequence.has_begun):
                wanted += range(begins[-1], begins[-1] + n)
            elif work.is_complete:
                wanted.append(begins[-1] + n - 1)
            begins.append(begins[-1] + n)
            ends.append(len(wanted))
        batch = Batch(
            _int32(ids), _int32(positions), _int32(begins), self._pages_of(works), _int32(wanted),
            _adapters(works, adapters),
        )  # fmt: skip
        if self._static is not None and self._static.takes(batch):
            return Outcome(self._static.run(batch), tuple(ends))
        return Outcome(self.model.extend(batch, self._cache), tuple(ends))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """logits_RV in fp32, whatever type the model gives them in."""
        model = self.model if self._static is None else self._static
        return model.logits(hidden_RD).float()

    def swap(self, model: LanguageModel) -> None:
        """Go on with another model of the same shape; what the cache holds is void.

        Graphs are recorded anew: they know the weights by their addresses.

        Raises:
            ConfigError: rows are not the same bits with it; it goes on with it all the same.
        """
        if self._recorder is not None:
            self._recorder.forget()
        self._static, self.graphs = None, None
        self._cache = None  # freed before the next is made
        self._begin(model)

    def _begin(self, model: LanguageModel) -> None:
        self.model = model
        by_rows = isinstance(model, RowModel) and (
            self._batch_invariant or self._recorder is not None
        )
        self._cache = model.make_cache(self._n_pages + by_rows)
        if isinstance(model, RowModel) and by_rows:
            self._begin_static(model)
        elif self._batch_invariant and not model.is_batch_invariant:
            raise ConfigError(
                "this model does not compute rows alike in any batch", param="batch_invariant"
            )

    def _begin_static(self, model: RowModel) -> None:
        if not self._batch_invariant:
            assert self._recorder is not None
            self._static, self.graphs = record_new(lambda: self._make_static(model), self._recorder)
            return
        self._static, probe = self._make_static(model)
        if self._recorder is not None:
            self.graphs = record_all(self._static, probe, self._recorder)
        probe.require_alike(self._static)

    def _make_static(self, model: RowModel) -> tuple[StaticStep, Probe]:
        window = min(self._max_pages * PAGE_TOKENS, int(model.config.max_seq_len))
        shapes_of = Shapes.invariant if self._batch_invariant else Shapes.of_steps
        shapes = shapes_of(self._n_slots, pages_for(window))
        step = StaticStep(model, self._cache, self._n_pages, shapes, self._batch_invariant)
        return step, Probe(model, self._cache, min(window, self._n_pages * PAGE_TOKENS))

    def _pages_of(self, works: Items[Work]) -> Tensor:
        slots = []
        for work in works:
            sequence, slot = work.sequence, work.sequence.slot
            assert slot is not None
            owner, n_written = self._n_written[slot]
            n_pages = len(sequence.pages)
            if owner is not sequence.pages or n_written != n_pages:
                begin = n_written if owner is sequence.pages else 0
                self._table_SP[slot, begin:n_pages] = _int32(sequence.pages[begin:])
                self._n_written[slot] = (sequence.pages, n_pages)
            slots.append(slot)
        return self._table_SP.index_select(0, _int32(slots))


def _adapters(works: Items[Work], numbers: dict[str, int]) -> Tensor | None:
    names = [work.sequence.request.adapter for work in works]
    if not any(names):
        return None
    return _int32([-1 if name is None else numbers[name] for name in names])


def _int32(values: Items[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
