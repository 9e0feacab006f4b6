"""Rows to try a step of fixed shape on, before any request: are graphs right, are rows alike?

Made by the runner when a cache is new, since pages are written without asking who holds them.
Invariant: the rows of one probe are the same each time.
Shape letters as in `mulm.engine.static_step`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mulm.engine.static_shapes import Shape
from mulm.engine.static_step import StaticStep
from mulm.errors import ConfigError
from mulm.model.batch import PAGE_TOKENS, Batch, LanguageModel, Rows

_PIECE_TOKENS = 256


class Probe:
    """A text in the first pages of a cache, and rows that read parts of it again.

    Args:
        model: Whose cache it is.
        cache: Nobody's pages hold anything in it.
        n_tokens: Of the text.
    """

    def __init__(self, model: LanguageModel, cache: Any, n_tokens: int) -> None:
        self._model, self._cache, self._n_tokens = model, cache, n_tokens
        self._vocab_size = int(model.config.vocab_size)
        self._pages = list(range(-(-n_tokens // PAGE_TOKENS)))

    def write(self) -> None:
        """Write all of the text, as prompts are read."""
        for begin in range(0, self._n_tokens, _PIECE_TOKENS):
            positions = range(begin, min(begin + _PIECE_TOKENS, self._n_tokens))
            part = (self._ids(positions, 0).tolist(), begin, self._pages)
            self._model.extend(Batch.of(part), self._cache)

    def rows(self, shape: Shape, number: int) -> Rows:
        """As many tokens as fit a shape, at its end or (others) before it, by `number`."""
        end = min(self._n_tokens, shape.pages * PAGE_TOKENS)
        end = max(1, end - number * end // 3)
        return self._rows(range(max(0, end - shape.rows), end), number)

    def require_alike(self, step: StaticStep) -> None:
        """Make sure that an invariant step computes a row alike wherever and beside what it is.

        Repeated or run: a step with adapters is run, whatever was recorded.

        Raises:
            ConfigError: it does not.
        """
        smallest = step.shapes.largest_first()[-1]
        end = min(self._n_tokens, smallest.pages * PAGE_TOKENS)
        for begin in range(0, end, smallest.rows):  # by the step's own kernels
            text = range(begin, min(begin + smallest.rows, end))
            step.run_rows(smallest, self._rows(text, 0))
        for at in (end - 1, end // 2):  # one that begins a page empties what follows
            expected_D = step.run_rows(smallest, self._rows([at], 0))[0]
            for shape in step.shapes.largest_first():
                many_BD = step.run_rows(shape, self._rows([at] * shape.rows, 0))
                others = range(max(0, at - shape.rows + 1), at + 1)
                beside_D, eager_D = (  # rows with adapters run eagerly where others are repeated
                    step.run_rows(shape, self._rows(others, 0), eagerly=is_eager)[-1]
                    for is_eager in (False, True)
                )
                found_BD = torch.stack([*many_BD, beside_D, eager_D])
                logits_BV = step.logits(found_BD)
                if not ((found_BD == expected_D).all() and (logits_BV == logits_BV[0]).all()):
                    raise ConfigError(
                        f"a step of {shape.rows} rows does not compute all of them alike here",
                        hint="without `batch_invariant` answers may differ in what is almost"
                        " equally likely; one sequence at a time (`n_slots=1`) is another way",
                        param="batch_invariant",
                    )

    def _rows(self, positions: range | list[int], number: int) -> Rows:
        positions_B = torch.tensor(positions, dtype=torch.int32)
        pages_BP = torch.tensor(self._pages, dtype=torch.int32).expand(len(positions_B), -1)
        nobody_B = torch.full_like(positions_B, -1)
        return Rows(self._ids(positions, number), positions_B, nobody_B, pages_BP, -1)

    def _ids(self, positions: range | list[int], number: int) -> Tensor:
        ids = [(7919 * at + 31 * number) % self._vocab_size for at in positions]
        return torch.tensor(ids, dtype=torch.int32)
