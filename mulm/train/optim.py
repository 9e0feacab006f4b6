"""The optimizer: Muon for matrices inside blocks, AdamW for everything else.

Made by the training loop, stepped once per global batch. Invariant: all state lies in named
tensors (`tensors()`), so a checkpoint is a copy and a resume is exact; every worker that holds the
same gradients computes the same step. A step that memory interrupted is called again and goes on
where it was (`pieces`). Which worker keeps the state of which parameter, and in which memory, is
`placement`'s business and changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mulm.errors import CorruptError
from mulm.train.adamw import AdamW
from mulm.train.gradients import Named, clip_gradients
from mulm.train.moments import named_tensors
from mulm.train.muon import Muon
from mulm.train.pieces import Pieces
from mulm.train.placement import EVERYTHING_HERE, Placement
from mulm.train.settled import SettledOptimizer
from mulm.train.shard import assign, collect
from mulm.train.weight_decay import is_block_matrix


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


def learned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


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


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
