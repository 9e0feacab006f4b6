"""A LoRA adapter apart from its model, and several of them beside a running one in plain PyTorch.

Taken from an adapted model by `mulm.model.lora.adapter_of` and stored beside its merged weights
(`mulm.model.stored`), held by the engine under a name; used by `MicroLM.extend`, and by the CPU
kernels of `mulm.native` in their own way. Invariant: a row
without an adapter is computed as if there were none; the base's products are computed once for all.
Shape letters: T new tokens of all sequences, X some of them, I inputs of a matrix, O outputs,
R rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.errors import ConfigError, CorruptError
from mulm.model.batch import Batch, Rows
from mulm.model.config import MicroLMConfig

MATRICES = ("attention.q", "attention.k", "attention.v", "attention.out",
            "mlp.gate", "mlp.up", "mlp.down")  # fmt: skip
"""The matrices of a block, in the order of `MicroLMConfig.block_matrices`."""

_SIDES = ("inner", "outer")
_PLACE = re.compile(r"layers\.(\d{1,6})\.([a-z.]+)")


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one matrix: `outer_OR @ inner_RI`."""

    inner_RI: Tensor
    outer_OR: Tensor


@dataclass(frozen=True, slots=True)
class Adapter:
    """The low-rank changes of a model's matrices, by layer and name."""

    changes: Mapping[tuple[int, str], LowRank]

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Adapter:
        """From what `tensors` gave.

        Raises:
            CorruptError: the names are not those of whole pairs.
        """
        places = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        if tensors.keys() != {f"{place}.{side}" for place in places for side in _SIDES}:
            raise CorruptError("an adapter's file lacks one of two factors")
        changes: dict[tuple[int, str], LowRank] = {}
        for place in places:
            found = _PLACE.fullmatch(place)
            if found is None:
                raise CorruptError(f"an adapter's file names a matrix {place!r}")
            inner_RI, outer_OR = (tensors[f"{place}.{side}"] for side in _SIDES)
            changes[int(found[1]), found[2]] = LowRank(inner_RI, outer_OR)
        return cls(changes)

    def tensors(self) -> dict[str, Tensor]:
        """All factors by name, as they are stored."""
        return {
            f"layers.{layer}.{name}.{side}": tensor
            for (layer, name), change in self.changes.items()
            for side, tensor in zip(_SIDES, (change.inner_RI, change.outer_OR), strict=True)
        }

    def on(self, device: torch.device) -> Adapter:
        """The same on a device."""
        return Adapter({
            place: LowRank(change.inner_RI.to(device), change.outer_OR.to(device))
            for place, change in self.changes.items()
        })  # fmt: skip

    def check(self, config: MicroLMConfig) -> None:
        """Whether it fits a model of that shape.

        Raises:
            ConfigError: it is for another shape.
        """
        shapes = dict(zip(MATRICES, config.block_matrices, strict=True))
        for (layer, name), change in self.changes.items():
            found = (change.outer_OR.shape[0], change.inner_RI.shape[1])
            fits = change.inner_RI.shape[0] == change.outer_OR.shape[1] > 0
            if layer >= config.n_layers or shapes.get(name) != found or not fits:
                raise ConfigError(
                    f"the adapter changes a matrix {name!r} of layer {layer} in the shape {found},"
                    " which the model does not have",
                    hint="an adapter serves the model that it was trained on",
                    param="adapter",
                )


class RowAdapters:
    """Adapters beside one model in plain PyTorch, by number."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks
        self._adapters: dict[int, Adapter] = {}

    def set(self, number: int, adapter: Adapter | None) -> None:
        """Put an adapter in the place of any that has that number; None removes it."""
        self._adapters.pop(number, None)
        if adapter is not None:
            self._adapters[number] = adapter.on(self._device)

    @property
    def _device(self) -> torch.device:
        return next(chain(self._blocks.parameters(), self._blocks.buffers())).device

    @contextmanager
    def beside(self, batch: Batch) -> Iterator[None]:
        """Inside the block the rows of a batch are computed with their adapters."""
        rows = {n: rows_X.to(self._device) for n, rows_X in _rows_of(batch).items() if n >= 0}
        with ExitStack() as hooks:
            for number, rows_X in rows.items():
                for (layer, name), change in self._adapters[number].changes.items():
                    matrix = self._blocks[layer].get_submodule(name)
                    hook = matrix.register_forward_hook(_Addition(change, rows_X))
                    hooks.callback(hook.remove)
            yield

    @contextmanager
    def beside_rows(self, rows: Rows) -> Iterator[None]:
        """As `beside`, by products of all rows, so that their shapes hang on no other row."""
        with ExitStack() as hooks:
            for number in rows.adapters:
                is_mine_B1 = (rows.adapters_B == number)[:, None]
                for (layer, name), change in self._adapters[number].changes.items():
                    matrix = self._blocks[layer].get_submodule(name)
                    hook = matrix.register_forward_hook(_AdditionToSome(change, is_mine_B1))
                    hooks.callback(hook.remove)
            yield


class _Addition:
    """A forward hook: adds to some rows of a matrix's result, in place."""

    def __init__(self, change: LowRank, rows_X: Tensor) -> None:
        self._change, self._rows_X = change, rows_X

    def __call__(self, _matrix: nn.Module, inputs: tuple[Any, ...], y_BTO: Tensor) -> None:
        x_XI = inputs[0][0, self._rows_X]
        inner_XR = functional.linear(x_XI, self._change.inner_RI.to(x_XI))
        y_BTO[0, self._rows_X] += functional.linear(inner_XR, self._change.outer_OR.to(x_XI))


class _AdditionToSome:
    """A forward hook: what is added to every row counts where the row is one of some."""

    def __init__(self, change: LowRank, is_mine_B1: Tensor) -> None:
        self._change, self._is_mine_B1 = change, is_mine_B1

    def __call__(self, _matrix: nn.Module, inputs: tuple[Any, ...], y_1BO: Tensor) -> Tensor:
        x_1BI = inputs[0]
        inner_1BR = functional.linear(x_1BI, self._change.inner_RI.to(x_1BI))
        added_1BO = y_1BO + functional.linear(inner_1BR, self._change.outer_OR.to(x_1BI))
        return torch.where(self._is_mine_B1, added_1BO, y_1BO)


def _rows_of(batch: Batch) -> dict[int, Tensor]:
    """The rows of T of each adapter's number."""
    if batch.adapters_S is None:
        return {}
    rows: dict[int, list[int]] = {}
    owners = batch.adapters_S.tolist()
    for number, (begin, end) in zip(owners, pairwise(batch.begins_S1.tolist()), strict=True):
        rows.setdefault(number, []).extend(range(begin, end))
    return {number: torch.tensor(its_rows) for number, its_rows in rows.items()}
