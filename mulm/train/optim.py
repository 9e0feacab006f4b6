"""Optimizers: Muon for matrices inside blocks, AdamW for everything else.

Made by the training loop, stepped once per global batch. Invariant: all state lies in named
tensors (`tensors()`), so a checkpoint is a copy and a resume is exact; every worker that holds the
same gradients computes the same step. What a step needs beside the state is bounded: it works
on slices of large tensors, and on a few matrices at a time. A step that memory interrupted is
called again and goes on where it was (`pieces`). Which worker keeps the state of which parameter,
and in which memory, is `placement`'s business and changes no bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mulm.errors import CorruptError
from mulm.train.config import StateDtype
from mulm.train.gradients import Named, clip_gradients
from mulm.train.moments import make_moment, named_tensors
from mulm.train.optimizer_memory import BATCH_NUMBERS, PART_NUMBERS
from mulm.train.pieces import Pieces
from mulm.train.placement import EVERYTHING_HERE, Placement
from mulm.train.settled import SettledOptimizer
from mulm.train.shard import assign, collect

MOMENTUM = 0.95
BETA1, BETA2, EPS = 0.9, 0.95, 1e-10
# Coefficients of five steps towards the polar factor, best in the worst case for singular
# values down to 1e-3 (Amsel et al., 2025, "The Polar Express", table in the appendix).
_POLAR_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


class Optimizer:
    """All parameters of a model, each under its rule; states are kept where `placement` says.

    `owners` is empty where this worker keeps all states, else it has the worker of each parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        config: SettledOptimizer,
        dtype: torch.dtype,
        placement: Placement = EVERYTHING_HERE,
    ) -> None:
        self.placement, self._pieces = placement, Pieces()
        named = learned_parameters(model)
        self._device = next(iter(named.values())).device
        sizes = {n: p.numel() * (1 if _is_muons(n, p, config) else 2) for n, p in named.items()}
        self.owners = assign(sizes, placement.n_shards) if placement.n_shards > 1 else {}
        rank = placement.rank
        own = {n: p for n, p in named.items() if self.owners.get(n, rank) == rank}
        self.muon, self.adamw = _rules(own, config, dtype, is_offloaded=placement.is_offloaded)
        elsewhere = {n: _only_form(p) for n, p in named.items() if n not in own}
        self._elsewhere = _states(*_rules(elsewhere, config, dtype))
        self.max_grad_norm = config.max_grad_norm
        self._clipped = [i for i, (n, p) in enumerate(named.items()) if not _is_muons(n, p, config)]

    def step(self, lr_scale: float, norms_P: Tensor | None = None) -> None:
        """Move all weights of this worker along their gradients.

        `norms_P` are the norms of all gradients, in the order of the model's learned parameters,
        where they are known; with owners they must be.

        Raises:
            torch.OutOfMemoryError: call it again with the same arguments to go on.
        """
        once = self._pieces.once
        once("clip", partial(self._clip, norms_P))
        once("adamw", partial(self.adamw.step, lr_scale))
        once("muon", lambda: self.muon.step(lr_scale, int(self.adamw.n_steps)))
        self._pieces.end()

    def _clip(self, norms_P: Tensor | None) -> None:
        assert norms_P is not None or not self.owners
        norm = None if norms_P is None else float(norms_P[self._clipped].norm())
        clip_gradients(self.adamw.parameters, self.max_grad_norm, norm)

    def tensors(self) -> dict[str, Tensor]:
        """The live state by name; copying into these tensors restores it.

        What another worker keeps is a tensor on the meta device, of the same form.
        """
        own = _states(self.muon, self.adamw)
        return {**own, **self._elsewhere, "n_steps": self.adamw.n_steps}

    def holders(self) -> dict[str, int]:
        """The worker that has each tensor of the state; those that all have are left out."""
        names = [name for name in self.tensors() if name != "n_steps"] if self.owners else []
        return {name: self.owners[name.partition(".")[2]] for name in names}

    def collected(self) -> dict[str, Tensor]:
        """The whole state, on worker 0; all workers call it. Other workers get what they have."""
        return collect(self.tensors(), self.holders(), self.placement.rank, self._device)

    def load_tensors(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the state that `collected` gave, on any number of workers.

        Raises:
            CorruptError: it belongs to another model or optimizer.
        """
        own = self.tensors()
        if _forms(own) != _forms(saved):
            raise CorruptError(
                "the checkpoint's optimizer state does not fit this model",
                hint="resume with the configuration that made it",
            )
        for name, tensor in own.items():
            if not tensor.is_meta:
                tensor.copy_(saved[name])


class Muon:
    """Momentum, orthogonalised: every direction of a matrix moves at the same speed.

    Keller Jordan et al., 2024; the polar factor by five Newton-Schulz-like steps, equal shapes
    batched. Wide and tall matrices share a shape after transposing.
    """

    def __init__(
        self,
        parameters: Named,
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
        state_dtype: StateDtype = "fp32",
        is_cautious: bool = False,
        is_offloaded: bool = False,
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.weight_decay, self.dtype = lr, weight_decay, dtype
        self.is_cautious, self._pieces = is_cautious, Pieces()
        make = partial(make_moment, dtype=state_dtype, is_offloaded=is_offloaded)
        self.momentum = {name: make(p) for name, p in self.parameters.items()}
        self._names_by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            self._names_by_shape[tuple(sorted(parameter.shape))].append(name)

    @torch.no_grad()
    def step(self, lr_scale: float, n_steps: int) -> None:
        """One update; `n_steps` counts from 1."""
        for (n_rows, n_columns), names in self._names_by_shape.items():
            batch_size = max(1, BATCH_NUMBERS // (n_rows * n_columns))
            for start in range(0, len(names), batch_size):
                batch = names[start : start + batch_size]
                move = partial(self._step_batch, batch, (n_rows, n_columns), lr_scale * self.lr)
                changed = partial(self._changed, batch)
                self._pieces.once(batch[0], partial(move, n_steps), changed)
        self._pieces.end()

    def _changed(self, names: list[str]) -> Iterator[Tensor]:
        for name in names:
            yield self.parameters[name]
            yield from self.momentum[name].live(slice(0, self.parameters[name].numel()))

    def _step_batch(
        self, names: list[str], wide_shape: tuple[int, ...], lr: float, n_steps: int
    ) -> None:
        device = self.parameters[names[0]].device
        wide_XMN = torch.empty(len(names), *wide_shape, dtype=self.dtype, device=device)
        for wide, name in zip(wide_XMN, names, strict=True):
            wide.copy_(_widened(self._direction(name, n_steps)))
        for name, factor in zip(names, polar_factor(wide_XMN), strict=True):
            self._move(name, factor, lr)

    def _direction(self, name: str, n_steps: int) -> Tensor:
        gradient, moment = self.parameters[name].grad, self.momentum[name]
        assert gradient is not None
        whole = slice(0, gradient.numel())
        momentum = moment.read(whole)
        momentum.lerp_(gradient.view(-1), 1 - MOMENTUM)
        moment.write(whole, momentum, n_steps)
        return torch.lerp(gradient, momentum.view_as(gradient), MOMENTUM)

    def _move(self, name: str, wide_factor: Tensor, lr: float) -> None:
        parameter = self.parameters[name]
        n_out, n_in = parameter.shape
        factor = wide_factor if n_out <= n_in else wide_factor.T
        if self.weight_decay:
            _decay(parameter, factor if self.is_cautious else None, lr * self.weight_decay)
        parameter.add_(factor, alpha=-lr * max(1.0, n_out / n_in) ** 0.5)


class AdamW:
    """Adam with decoupled weight decay of block matrices (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        parameters: Named,
        lr: float,
        weight_decay: float,
        state_dtype: StateDtype = "fp32",
        is_cautious: bool = False,
        is_offloaded: bool = False,
    ) -> None:
        self.parameters, self._pieces = dict(parameters), Pieces()
        self.lr, self.weight_decay, self.is_cautious = lr, weight_decay, is_cautious
        make = partial(make_moment, dtype=state_dtype, is_offloaded=is_offloaded)
        self.mean = {name: make(p) for name, p in self.parameters.items()}
        self.square = {name: make(p, is_square=True) for name, p in self.parameters.items()}
        self.n_steps = torch.zeros(1, dtype=torch.int64)

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """One update."""
        self._pieces.once("count", partial(self.n_steps.add_, 1))
        n_steps, lr = int(self.n_steps), lr_scale * self.lr
        for name, parameter in self.parameters.items():
            for part in _parts(parameter.numel()):
                move = partial(self._move, name, part, n_steps, lr)
                self._pieces.once((name, part.start), move, partial(self._changed, name, part))
        self._pieces.end()

    def _changed(self, name: str, part: slice) -> Iterator[Tensor]:
        yield self.parameters[name].view(-1)[part]
        yield from self.mean[name].live(part)
        yield from self.square[name].live(part)

    def _move(self, name: str, part: slice, n_steps: int, lr: float) -> None:
        parameter, gradient = self.parameters[name], self.parameters[name].grad
        assert gradient is not None
        gradient = gradient.view(-1)[part]
        mean, square = self.mean[name].read(part), self.square[name].read(part)
        mean.lerp_(gradient, 1 - BETA1)
        self.mean[name].write(part, mean, n_steps)
        square.lerp_(gradient.square(), 1 - BETA2)
        self.square[name].write(part, square, n_steps)
        spread = (square / (1 - BETA2**n_steps)).sqrt_().add_(EPS)
        if self.weight_decay and is_block_matrix(name, parameter):
            own = parameter.view(-1)[part]
            _decay(own, mean if self.is_cautious else None, lr * self.weight_decay)
        parameter.view(-1)[part].addcdiv_(mean, spread, value=-lr / (1 - BETA1**n_steps))


def learned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix inside a block: neither embedding nor gain."""
    return parameter.ndim == 2 and name.startswith("blocks.")


def polar_factor(wide_XMN: Tensor) -> Tensor:
    """Nearly U V^T of each matrix's singular value decomposition U S V^T, for M <= N."""
    x_XMN: Tensor = wide_XMN / (wide_XMN.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in _POLAR_STEPS:
        gram_XMM = x_XMN @ x_XMN.mT
        factor_XMM = torch.baddbmm(gram_XMM, gram_XMM, gram_XMM, beta=b, alpha=c)
        x_XMN = torch.baddbmm(x_XMN, factor_XMM, x_XMN, beta=a)
    return x_XMN


def _is_muons(name: str, parameter: Tensor, config: SettledOptimizer) -> bool:
    return config.kind == "muon" and is_block_matrix(name, parameter)


def _only_form(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def _rules(
    named: Named, config: SettledOptimizer, dtype: torch.dtype, *, is_offloaded: bool = False
) -> tuple[Muon, AdamW]:
    matrices = {n: p for n, p in named.items() if _is_muons(n, p, config)}
    others = {n: p for n, p in named.items() if n not in matrices}
    decay, state_dtype, cautious = config.weight_decay, config.state_dtype, config.cautious_decay
    return (
        Muon(matrices, config.matrix_lr, decay, dtype, state_dtype, cautious, is_offloaded),
        AdamW(others, config.embedding_lr, decay, state_dtype, cautious, is_offloaded),
    )


def _states(muon: Muon, adamw: AdamW) -> dict[str, Tensor]:
    return {
        **named_tensors("momentum", muon.momentum),
        **named_tensors("mean", adamw.mean),
        **named_tensors("square", adamw.square),
    }


def _decay(weights: Tensor, update: Tensor | None, rate: float) -> None:
    """Shrink weights; with an update, which is subtracted, only those that it shrinks as well.

    So a number is never pulled back on its way out (cautious weight decay, Chen et al., 2025).
    """
    if update is None:
        weights.mul_(1 - rate)
    else:
        weights.sub_(weights * (weights * update > 0), alpha=rate)


def _widened(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _parts(n_numbers: int) -> Iterator[slice]:
    for start in range(0, n_numbers, PART_NUMBERS):
        yield slice(start, min(n_numbers, start + PART_NUMBERS))


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
