"""Work that did not fit is done again with fewer rows, from its beginning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mulm.errors import DeviceError
from mulm.train.micro_batch import MicroBatch, halved
from mulm.train.room import with_room


class Rows:
    """An objective's part in it."""

    def __init__(self, rows: int) -> None:
        self.chosen = MicroBatch(rows, "asked for")

    def shrink(self) -> int | None:
        smaller = halved(self.chosen)
        self.chosen = smaller or self.chosen
        return smaller.rows if smaller else None


def test_the_next_power_of_two_below() -> None:
    def halvings(rows: int) -> list[int]:
        found, chosen = [], MicroBatch(rows, "")
        while (smaller := halved(chosen)) is not None:
            chosen = smaller
            found.append(chosen.rows)
        return found

    assert halvings(16) == [8, 4, 2, 1]
    assert halvings(13) == [8, 4, 2, 1]
    assert halvings(3) == [2, 1]
    assert halvings(1) == []


def test_it_shrinks_until_it_fits() -> None:
    rows, told = Rows(13), []
    model = nn.Linear(2, 2)

    def work() -> int:
        assert model.weight.grad is None, "what was done before is gone"
        model.weight.grad = torch.ones(2, 2)
        if rows.chosen.rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.chosen.rows

    objective: Any = SimpleNamespace(shrink=rows.shrink)
    assert with_room(work, model, objective, told.append) == 2
    assert [text.split(";")[0] for text in told] == [
        f"out of memory: from now on {n} rows at once" for n in (8, 4, 2)
    ]


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    objective: Any = Rows(2)
    with pytest.raises(DeviceError, match="one row at once") as error:
        with_room(work, nn.Linear(2, 2), objective, lambda _: None)
    assert "activation_checkpointing" in error.value.hint


def test_other_errors_are_not_touched() -> None:
    def work() -> None:
        raise RuntimeError("something else")

    objective: Any = Rows(2)
    with pytest.raises(RuntimeError, match="something else"):
        with_room(work, nn.Linear(2, 2), objective, lambda _: None)
