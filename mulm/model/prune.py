"""A smaller model out of a larger one: layers, heads and feed-forward units are cut out.

Called by `jobs.compress`. Invariant: the result is an ordinary `MicroLM` with a valid shape and
copied weights; a unit that stays computes what it did before. Embeddings are not cut.
Shape letters: N heads, K kv heads, H d_head, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mulm.errors import ConfigError
from mulm.model.config import MicroLMConfig
from mulm.model.importance import Batch, Importance, SumLoss, mean_loss, measure_importance
from mulm.model.microlm import MicroLM

_WIDTH_STEP = 16
_MIN_D_FF_SHARE = 8
_DEPTH_SHARES = (1.0, 7 / 8, 3 / 4, 5 / 8, 1 / 2)
_HEAD_SHARES = (1.0, 3 / 4, 1 / 2)
_FULL_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Pruned:
    """The smaller model, and for each shape that was tried the loss right after the cut."""

    model: MicroLM
    losses: tuple[tuple[MicroLMConfig, float], ...]


def prune_model(
    model: MicroLM,
    batches: Sequence[Batch],
    sum_loss: SumLoss,
    keep: float,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Pruned:
    """The best of the shapes with at most `keep` of the parameters, by the loss on `batches`.

    Raises:
        ConfigError: no shape is that small: the embeddings stay.
    """
    shapes = candidate_shapes(model.config, keep)
    importance = measure_importance(model, batches, sum_loss)
    best, best_loss, losses = model, float("inf"), []
    for done, shape in enumerate(shapes, start=1):
        smaller = cut(model, shape, importance)
        loss = mean_loss(smaller, batches, sum_loss)
        losses.append((shape, loss))
        if loss < best_loss:
            best, best_loss = smaller, loss
        on_progress(done, len(shapes))
    if best is model:
        best = cut(model, shapes[0], importance)  # no loss was a number: evaluation will say so
    return Pruned(best, tuple(losses))


def candidate_shapes(config: MicroLMConfig, keep: float) -> list[MicroLMConfig]:
    """Shapes with as many of `keep` times the parameters as fit; each depth with each head count.

    Raises:
        ConfigError: there are none.
    """
    depths = _sizes(config.n_layers, _DEPTH_SHARES)
    heads = _sizes(config.n_kv_heads, _HEAD_SHARES)
    found = [_fit(config, depth, n_kv, keep) for depth in depths for n_kv in heads]
    shapes = [shape for shape in found if shape is not None]
    if not shapes:
        smallest = _shape(config, min(depths), min(heads), _min_d_ff(config)).n_parameters
        raise ConfigError(
            f"keep: {keep} is too little: the embeddings are not cut, and a useful rest of the"
            " blocks must stay",
            hint=f"use at least {smallest / config.n_parameters + 0.005:.2f}",
        )
    return shapes


@torch.no_grad()
def cut(model: MicroLM, shape: MicroLMConfig, importance: Importance) -> MicroLM:
    """The model in a smaller shape: of each kind the most important parts, in their old order."""
    layers = _largest(torch.tensor(importance.layers), shape.n_layers)
    smaller = MicroLM(shape)
    weights = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith("blocks")
    }
    for new, old in enumerate(layers.tolist()):
        kept_K = _largest(importance.kv_heads[old], shape.n_kv_heads)
        kept_F = _largest(importance.d_ff[old], shape.d_ff)
        block = model.blocks[old].state_dict()
        for name, tensor in _cut_block(block, model.config, kept_K, kept_F).items():
            weights[f"blocks.{new}.{name}"] = tensor
    smaller.load_state_dict(weights)
    return smaller.to(model.device).eval().requires_grad_(False)


def _cut_block(
    block: dict[str, Tensor], config: MicroLMConfig, kept_K: Tensor, kept_F: Tensor
) -> dict[str, Tensor]:
    """A block's weights without the rows and columns of what goes."""
    d_group = config.n_heads // config.n_kv_heads * config.d_head
    kept_kv, kept_q = _spread(kept_K, config.d_head), _spread(kept_K, d_group)
    rows = {"attention.q": kept_q, "attention.k": kept_kv, "attention.v": kept_kv}
    rows |= {"mlp.gate": kept_F, "mlp.up": kept_F}
    columns = {"attention.out": kept_q, "mlp.down": kept_F}
    result = {}
    for name, tensor in block.items():
        layer = name.removesuffix(".weight")
        if layer in rows:
            tensor = tensor[rows[layer]]
        elif layer in columns:
            tensor = tensor[:, columns[layer]]
        result[name] = tensor
    return result


def _sizes(full: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers near those shares, largest first."""
    return sorted({max(1, round(full * share)) for share in shares}, reverse=True)


def _fit(config: MicroLMConfig, depth: int, n_kv: int, keep: float) -> MicroLMConfig | None:
    """The widest feed-forward layers that fit, in whole steps.

    None where too little is left for them, and where all of them would not fill the room.
    """
    target = int(keep * config.n_parameters)
    bare = _shape(config, depth, n_kv, 1)
    d_ff = 1 + (target - bare.n_parameters) // (3 * config.d_model * depth)
    d_ff = min(config.d_ff, d_ff if d_ff < _WIDTH_STEP else d_ff // _WIDTH_STEP * _WIDTH_STEP)
    if d_ff < _min_d_ff(config):
        return None
    shape = _shape(config, depth, n_kv, d_ff)
    return shape if d_ff < config.d_ff or shape.n_parameters > _FULL_SHARE * target else None


def _min_d_ff(config: MicroLMConfig) -> int:
    return max(1, config.d_ff // _MIN_D_FF_SHARE)


def _shape(config: MicroLMConfig, n_layers: int, n_kv_heads: int, d_ff: int) -> MicroLMConfig:
    n_heads = config.n_heads // config.n_kv_heads * n_kv_heads
    changes = {
        "n_layers": n_layers, "n_kv_heads": n_kv_heads, "n_heads": n_heads, "d_ff": d_ff
    }  # fmt: skip
    return MicroLMConfig.model_validate(config.model_dump() | changes)


def _largest(worth: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, ascending."""
    return worth.argsort(descending=True, stable=True)[:count].sort().values


def _spread(kept: Tensor, width: int) -> Tensor:
    """Places of parts as places of all that belongs to them."""
    return (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()
