"""Optimizers: Muon for matrices inside blocks, AdamW for everything else.

Made by the training loop, stepped once per global batch. Invariant: all state lies in named
tensors (`tensors()`), so a checkpoint is a copy and a resume is exact; every worker that holds the
same gradients computes the same step. What a step needs beside the state is bounded: it works
on slices of large tensors, and on a few matrices at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mulm.errors import CorruptError
from mulm.train.config import StateDtype
from mulm.train.memory import BATCH_NUMBERS, PART_NUMBERS
from mulm.train.moments import Moment, make_moment
from mulm.train.settled import SettledOptimizer

Named = Mapping[str, nn.Parameter]

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
    """All parameters of a model, each under its rule."""

    def __init__(self, model: nn.Module, config: SettledOptimizer, dtype: torch.dtype) -> None:
        named = learned_parameters(model)
        by_muon = config.kind == "muon"
        matrices = {n: p for n, p in named.items() if by_muon and is_block_matrix(n, p)}
        others = {n: p for n, p in named.items() if n not in matrices}
        self.max_grad_norm = config.max_grad_norm
        decay, state_dtype = config.weight_decay, config.state_dtype
        cautious = config.cautious_decay
        self.muon = Muon(matrices, config.matrix_lr, decay, dtype, state_dtype, cautious)
        self.adamw = AdamW(others, config.embedding_lr, decay, state_dtype, cautious)

    def step(self, lr_scale: float) -> None:
        """Move all weights along their gradients."""
        clip_gradients(self.adamw.parameters, self.max_grad_norm)
        self.adamw.step(lr_scale)
        self.muon.step(lr_scale, int(self.adamw.n_steps))

    def tensors(self) -> dict[str, Tensor]:
        """The live state by name; copying into these tensors restores it."""
        return {
            **_named("momentum", self.muon.momentum),
            **_named("mean", self.adamw.mean),
            **_named("square", self.adamw.square),
            "n_steps": self.adamw.n_steps,
        }

    def load_tensors(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` gave.

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
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.weight_decay, self.dtype = lr, weight_decay, dtype
        self.is_cautious = is_cautious
        self.momentum = {n: make_moment(p, state_dtype) for n, p in self.parameters.items()}
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
                self._step_batch(batch, (n_rows, n_columns), lr_scale * self.lr, n_steps)

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
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.weight_decay, self.is_cautious = lr, weight_decay, is_cautious
        self.mean = {n: make_moment(p, state_dtype) for n, p in self.parameters.items()}
        self.square = {
            n: make_moment(p, state_dtype, is_square=True) for n, p in self.parameters.items()
        }
        self.n_steps = torch.zeros(1, dtype=torch.int64)

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """One update."""
        self.n_steps += 1
        n_steps, lr = int(self.n_steps), lr_scale * self.lr
        for name, parameter in self.parameters.items():
            for part in _parts(parameter.numel()):
                self._move(name, part, n_steps, lr)

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


def grad_norm(parameters: Named) -> float:
    """The Euclidean norm of all gradients together."""
    norms = [p.grad.norm() for p in parameters.values() if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def clip_gradients(parameters: Named, max_norm: float) -> None:
    """Scale gradients down together where their norm exceeds `max_norm`; 0 means never."""
    norm = grad_norm(parameters) if max_norm else 0.0
    if norm > max_norm:
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(max_norm / norm)


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


def _named(prefix: str, moments: Mapping[str, Moment]) -> dict[str, Tensor]:
    return {
        f"{prefix}{suffix}.{name}": tensor
        for name, moment in moments.items()
        for suffix, tensor in moment.tensors().items()
    }


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
