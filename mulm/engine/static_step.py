"""A step of fixed shape: every token a row, in buffers that never move, the other rows padding.

Called by the runner in the place of `LanguageModel.extend`. The buffers are filled, then the same
work is done whatever they hold: by running it (eagerly), or by repeating what was recorded
(`mulm.engine.graph`). Prompts, streams and guesses are all rows, of which a row sees those before
it of its own sequence. Invariants: padding writes to a page of its own, which nobody reads; what a
row gives is what `extend` gives, up to rounding. An invariant step has one number of rows for
everything, so a token is computed by the same kernels whatever is beside it, and in a prompt as in
an answer.
Shape letters: T new tokens of all sequences, R wanted rows, B rows of a shape, P pages of one,
D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mulm.engine.static_shapes import Shape, Shapes
from mulm.model.batch import PAGE_TOKENS, Batch, RowModel, Rows

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Does work once, and gives what does it again; see `mulm.engine.graph.Recorder`."""

_N_COLUMNS = 3
"""Numbers of a row beside its pages: the token, its position, its adapter."""


class StaticStep:
    """One model with one cache.

    Args:
        model: Reads rows.
        cache: Its own.
        spare_page: A page of the cache that no sequence is given.
        shapes: One number of rows only where steps are invariant.
        is_invariant: Whether a row's bits may hang on nothing but the tokens before it.
    """

    @torch.inference_mode()
    def __init__(
        self, model: RowModel, cache: Any, spare_page: int, shapes: Shapes, is_invariant: bool
    ) -> None:
        assert len(shapes.rows) == 1 or not is_invariant, "rows in two shapes are not alike"
        self.shapes, self.is_invariant = shapes, is_invariant
        self._model, self._cache, self._spare_page = model, cache, spare_page
        self._repeat: dict[Shape, Callable[[], None]] = {}
        size = _n_numbers(shapes.largest)
        self._numbers = torch.zeros(size, dtype=torch.int32, device=model.device)
        self._fill(shapes.largest, _nothing())
        hidden_BD = model.read_rows(self._rows(shapes.largest, ()), cache)
        self._hidden_BD = hidden_BD.clone()

    def takes(self, batch: Batch) -> bool:
        """Whether `run` computes this batch."""
        if self.is_invariant:
            return True
        fits = self.shapes.smallest(len(batch.ids_T), _n_pages(batch.positions_T)) is not None
        return fits and batch.adapters_S is None

    def run(self, batch: Batch) -> Tensor:
        """As `LanguageModel.extend`, of a batch that it takes: hidden_RD."""
        owner_T = torch.repeat_interleave(batch.begins_S1.diff())
        most = self.shapes.rows[-1]
        pieces = []
        for begin in range(0, len(batch.ids_T), most):
            piece = _piece(batch, owner_T, slice(begin, begin + most))
            shape = self.shapes.smallest(len(piece.ids_B), _n_pages(piece.positions_B))
            assert shape is not None, "a step that no shape fits"
            pieces.append(self.run_rows(shape, piece))
        return torch.cat(pieces).index_select(0, batch.wanted_R.to(self._hidden_BD.device))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """As `LanguageModel.logits`; of an invariant step by products of one shape."""
        if not self.is_invariant:
            return self._model.logits(hidden_RD)
        found = []
        for piece_RD in torch.split(hidden_RD, self.shapes.rows[-1]):
            n_padding = self.shapes.rows[-1] - len(piece_RD)
            padded_BD = functional.pad(piece_RD, (0, 0, 0, n_padding))
            found.append(self._model.logits(padded_BD)[: len(piece_RD)])
        return torch.cat(found)

    @torch.inference_mode()
    def run_rows(self, shape: Shape, rows: Rows, *, eagerly: bool = False) -> Tensor:
        """hidden_BD of these rows, which padding fills up to a shape; they may lie on the CPU.

        Work that was recorded is repeated, unless that is not wanted or rows have adapters.
        """
        self._fill(shape, rows)
        repeat = None if eagerly or rows.adapters else self._repeat.get(shape)
        if repeat is None:
            self._read(shape, rows.adapters)
        else:
            repeat()
        return self._hidden_BD[: len(rows.ids_B)].clone()

    def record(self, shape: Shape, record: Record) -> None:
        """Have a shape's work repeated from now on, as it is recorded here."""
        self._repeat[shape] = record(lambda: self._read(shape, ()))

    def forget(self) -> None:
        """Run all shapes eagerly from now on."""
        self._repeat.clear()

    def _read(self, shape: Shape, adapters: tuple[int, ...]) -> None:
        """The device's work, from the buffers to the buffers."""
        hidden_BD = self._model.read_rows(self._rows(shape, adapters), self._cache)
        self._hidden_BD[: shape.rows].copy_(hidden_BD)

    def _rows(self, shape: Shape, adapters: tuple[int, ...]) -> Rows:
        columns_3B, pages_BP = _parts(self._numbers, shape)
        ids_B, positions_B, adapters_B = columns_3B.unbind()
        spare_page, is_invariant = self._spare_page, self.is_invariant
        return Rows(ids_B, positions_B, adapters_B, pages_BP, spare_page, is_invariant, adapters)

    def _fill(self, shape: Shape, piece: Rows) -> None:
        """Send a piece to the buffers; one copy, done when this returns."""
        numbers = torch.zeros(_n_numbers(shape), dtype=torch.int32)
        columns_3B, pages_BP = _parts(numbers, shape)
        n_rows, n_pages = len(piece.ids_B), min(shape.pages, piece.pages_BP.shape[1])
        for column_B, given_B in zip(
            columns_3B, (piece.ids_B, piece.positions_B, piece.adapters_B), strict=True
        ):
            column_B[:n_rows] = given_B
        columns_3B[2, n_rows:] = -1
        pages_BP[:n_rows, :n_pages] = piece.pages_BP[:, :n_pages]
        pages_BP[n_rows:] = self._spare_page
        self._numbers[: len(numbers)].copy_(numbers)


def _piece(batch: Batch, owner_T: Tensor, part: slice) -> Rows:
    """Some tokens of a batch as rows, on the CPU."""
    owner_B = owner_T[part]
    adapters_B, adapters = torch.full_like(batch.ids_T[part], -1), ()
    if batch.adapters_S is not None:
        adapters_B = batch.adapters_S[owner_B]
        adapters = tuple(number for number in sorted(set(adapters_B.tolist())) if number >= 0)
    pages_BP = batch.pages_SP[owner_B]
    return Rows(
        batch.ids_T[part], batch.positions_T[part], adapters_B, pages_BP, -1, False, adapters
    )


def _nothing() -> Rows:
    empty_B = torch.empty(0, dtype=torch.int32)
    return Rows(empty_B, empty_B, empty_B, empty_B.view(0, 0), -1)


def _parts(numbers: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """columns_3B and pages_BP in a buffer that begins with them."""
    n_columns = _N_COLUMNS * shape.rows
    columns_3B = numbers[:n_columns].view(_N_COLUMNS, shape.rows)
    return columns_3B, numbers[n_columns : _n_numbers(shape)].view(shape.rows, shape.pages)


def _n_numbers(shape: Shape) -> int:
    return shape.rows * (_N_COLUMNS + shape.pages)


def _n_pages(positions_B: Tensor) -> int:
    return int(positions_B.max()) // PAGE_TOKENS + 1
