"""What the parts of a model are worth, measured on sample text.

Called by pruning. A layer's worth is how much the loss rises when it is left out; that of a group
of heads or of a feed-forward unit is estimated from the gradient of a gate on its output: the
square of what the loss changes, to first order, when the gate is closed (Molchanov et al., 2019).
Invariant: the model's weights stay as they are.
Shape letters: B rows, T tokens, D d_model, N heads, K kv heads, H d_head, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mulm.model.microlm import MicroLM

Batch = tuple[Tensor, Tensor]
"""x_BT and y_BT as from `TokenLoader`."""
SumLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden_ND, output_weight_VD, targets_N) -> nats; differentiable."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The worth of each part; only the order within a field means something."""

    layers: tuple[float, ...]
    """Nats per target that the loss rises without the layer."""
    kv_heads: tuple[Tensor, ...]
    """(K) for each layer: each kv head with the query heads that it serves."""
    d_ff: tuple[Tensor, ...]
    """(F) for each layer."""


def measure_importance(model: MicroLM, batches: Sequence[Batch], sum_loss: SumLoss) -> Importance:
    """Run the batches once for each layer and once with gradients."""
    full = mean_loss(model, batches, sum_loss)
    layers = []
    for layer in range(model.config.n_layers):
        with _without(model, layer):
            layers.append(mean_loss(model, batches, sum_loss) - full)
    gates = _gate_worths(model, batches, sum_loss)
    return Importance(tuple(layers), tuple(gates[0::2]), tuple(gates[1::2]))


@torch.no_grad()
def mean_loss(model: MicroLM, batches: Sequence[Batch], sum_loss: SumLoss) -> float:
    """Nats per target."""
    n_targets = sum(int((y_BT >= 0).sum()) for _, y_BT in batches)
    return sum(float(_loss(model, batch, sum_loss)) for batch in batches) / max(1, n_targets)


def _loss(model: MicroLM, batch: Batch, sum_loss: SumLoss) -> Tensor:
    x_BT, y_BT = (tensor.to(model.device) for tensor in batch)
    hidden_ND = model(x_BT).flatten(0, 1)
    return sum_loss(hidden_ND, model.output_weight_VD, y_BT.flatten())


@contextmanager
def _without(model: MicroLM, layer: int) -> Iterator[None]:
    """The model with one block left out."""
    blocks = model.blocks
    model.blocks = nn.ModuleList(block for n, block in enumerate(blocks) if n != layer)
    try:
        yield
    finally:
        model.blocks = blocks


def _gate_worths(model: MicroLM, batches: Sequence[Batch], sum_loss: SumLoss) -> list[Tensor]:
    """For each layer in turn: (K) of its kv heads, then (F) of its feed-forward units."""
    config, device = model.config, model.device
    sizes = [config.n_kv_heads, config.d_ff] * config.n_layers
    gates = [torch.ones(size, device=device, requires_grad=True) for size in sizes]
    blocks: list[Any] = list(model.blocks)
    inner: list[Any] = [m for block in blocks for m in (block.attention.out, block.mlp.down)]
    hooks = [m.register_forward_pre_hook(_Gate(g)) for m, g in zip(inner, gates, strict=True)]
    worths = [torch.zeros_like(gate, requires_grad=False) for gate in gates]
    try:
        for x_BT, y_BT in batches:
            for row in zip(torch.split(x_BT, 1), torch.split(y_BT, 1), strict=True):
                gradients = torch.autograd.grad(_loss(model, row, sum_loss), gates)
                for worth, gradient in zip(worths, gradients, strict=True):
                    worth += gradient**2
    finally:
        for hook in hooks:
            hook.remove()
    return worths


class _Gate:
    """Multiplies a layer's input by one number for each piece of it."""

    def __init__(self, gate: Tensor) -> None:
        self.gate = gate

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x_BTX,) = inputs
        return (x_BTX * self.gate.repeat_interleave(x_BTX.shape[-1] // len(self.gate)),)
