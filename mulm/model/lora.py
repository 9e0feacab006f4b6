"""LoRA: low-rank adapters beside frozen matrices (Hu et al., 2021, section 4.1).

Used by training where a config asks for it; what is stored has them merged, and by themselves in a
file beside that. An engine serves them beside their base as `mulm.model.adapter` has them.
Invariants: a fresh adapter says nothing, so an adapted model begins as its base; the base is never
written to; the merged model computes what the adapted one does, up to rounding.
Shape letters: I inputs of a matrix, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.model.adapter import MATRICES, Adapter, LowRank
from mulm.model.layers import Linear
from mulm.model.microlm import MicroLM

_ADAPTERS = ("lora_in", "lora_out")


class AdaptedLinear(Linear):
    """A frozen matrix W and scale * B A beside it: y = W x + scale * B (A x)."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features)
        self.weight = base.weight
        self.scale, self.is_on = scale, True
        device = base.weight.device
        self.lora_in = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_out = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension."""
        base = super().forward(x)
        if not self.is_on:
            return base
        inner = functional.linear(x, self.lora_in.to(x.dtype)).mul_(self.scale)
        return base.add_(functional.linear(inner, self.lora_out.to(x.dtype)))

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """W + scale * B A, in the type of W."""
        change_OI = self.scale * (self.lora_out @ self.lora_in)
        return self.weight + change_OI.to(self.weight.dtype)


def adapt(
    model: MicroLM,
    *,
    rank: int,
    scale: float,
    matrices: Collection[str],
    generator: torch.Generator,
) -> MicroLM:
    """Freeze a model and put adapters beside some matrices of each block, in place.

    `matrices` are names as the layers have them: q, k, v, out, gate, up, down. A is random and B
    zero. Returns the model.
    """
    model.requires_grad_(False)
    for block in model.blocks:
        for layer in (block.attention, block.mlp):
            for name in sorted(matrices):
                base = getattr(layer, name, None)
                if isinstance(base, Linear):
                    adapted = AdaptedLinear(base, rank, scale)
                    _begin(adapted, generator)
                    setattr(layer, name, adapted)
    return model


def merged(model: MicroLM) -> MicroLM:
    """An ordinary model that computes what the adapted one does; the adapted one stays as it is."""
    weights = {name: t for name, t in model.state_dict().items() if not is_adapter(name)}
    for name, layer in _adapted(model):
        weights[f"{name}.weight"] = layer.merged_weight()
    with torch.device("meta"):
        plain = MicroLM(model.config)
    plain.load_state_dict(weights, assign=True)
    plain.rotary_cos, plain.rotary_sin = model.rotary_cos, model.rotary_sin
    return plain.train(model.training).requires_grad_(False)


@torch.no_grad()
def adapter_of(model: MicroLM) -> Adapter:
    """What an adapted model has beside its base, by itself; fp32 copies on the CPU."""
    changes: dict[tuple[int, str], LowRank] = {}
    for layer, block in enumerate(model.blocks):
        for name in MATRICES:
            matrix = block.get_submodule(name)
            if isinstance(matrix, AdaptedLinear):
                inner_RI = matrix.lora_in.detach().cpu().float().clone()
                changes[layer, name] = LowRank(
                    inner_RI, matrix.lora_out.cpu().float() * matrix.scale
                )
    return Adapter(changes)


@contextmanager
def without_adapters(model: MicroLM) -> Iterator[MicroLM]:
    """The base of an adapted model, inside the block."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.is_on = False
    try:
        yield model
    finally:
        for layer in layers:
            layer.is_on = True


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name is part of an adapter."""
    return name.endswith(_ADAPTERS)


def _adapted(model: MicroLM) -> Iterator[tuple[str, AdaptedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            yield name, module


@torch.no_grad()
def _begin(layer: AdaptedLinear, generator: torch.Generator) -> None:
    """Draw on the CPU, so that a seed means the same everywhere."""
    drawn_RI = torch.randn(layer.lora_in.shape, generator=generator)
    layer.lora_in.copy_(drawn_RI * layer.in_features**-0.5)
