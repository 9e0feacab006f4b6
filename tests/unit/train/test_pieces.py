"""A step of the optimizer that memory interrupts anywhere ends as one that nothing interrupted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mulm.errors import DeviceError
from mulm.testing import TINY, settled_optimizer, tiny_model
from mulm.train import adamw, muon, pieces
from mulm.train.optim import Optimizer
from mulm.train.pieces import Pieces
from mulm.train.placement import Placement
from mulm.train.room import with_emptied_cache
from mulm.train.settled import SettledOptimizer

SHAPE = TINY.model_copy(update={"d_ff": 160})  # large enough for codes
N_STEPS = 2


class RunsOut(TorchDispatchMode):
    """Memory runs out at the n-th operation that asks for some; without n it counts them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.n_asked = at, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not func._schema.is_mutable and not found._is_view():
            self.n_asked += 1
            if self.n_asked == self.at:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return found


def stepped(
    config: SettledOptimizer, at: int | None = None, *, is_offloaded: bool = False
) -> tuple[dict[str, Tensor], int]:
    """Weights and state after some steps, and how often the last asked for memory."""
    model = tiny_model(1, SHAPE).requires_grad_(True)
    optimizer = Optimizer(model, config, torch.float32, Placement(is_offloaded=is_offloaded))
    for seed in range(N_STEPS):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        with RunsOut(at if seed == 1 else None) as memory:
            with_emptied_cache(lambda: optimizer.step(0.7))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return weights | optimizer.tensors(), memory.n_asked


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16", "int8"])
def test_memory_may_run_out_anywhere(
    monkeypatch: pytest.MonkeyPatch, kind: str, state_dtype: str
) -> None:
    monkeypatch.setattr(pieces, "RUNS_OUT", frozenset({"cpu"}))
    monkeypatch.setattr(adamw, "PART_NUMBERS", 1024)
    monkeypatch.setattr(muon, "BATCH_NUMBERS", 10_000)
    values = {"kind": kind, "state_dtype": state_dtype, "weight_decay": 0.1, "cautious_decay": True}
    config = settled_optimizer(**values)
    whole, n_asked = stepped(config)
    assert n_asked > 50
    for at in range(1, n_asked + 1, n_asked // 11):
        found, n_more = stepped(config, at)
        assert n_more > n_asked, "what was interrupted asked again"
        for name, tensor in whole.items():
            assert torch.equal(found[name], tensor), f"{name} after {at}"


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16", "int8"])
def test_states_in_the_memory_of_the_cpu_change_no_bit(kind: str, state_dtype: str) -> None:
    config = settled_optimizer(kind=kind, state_dtype=state_dtype)
    here, _ = stepped(config)
    there, _ = stepped(config, is_offloaded=True)
    for name, tensor in here.items():
        assert torch.equal(there[name], tensor), name


@pytest.mark.slow
def test_offloaded_states_survive_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "RUNS_OUT", frozenset({"cpu"}))
    config = settled_optimizer()
    whole, n_asked = stepped(config, is_offloaded=True)
    for at in range(1, n_asked + 1, n_asked // 5):
        found, _ = stepped(config, at, is_offloaded=True)
        for name, tensor in whole.items():
            assert torch.equal(found[name], tensor), f"{name} after {at}"


def test_a_piece_is_done_once_a_step() -> None:
    done, step = list[str](), Pieces()
    for _ in range(2):
        for key in ("a", "b", "a"):
            step.once(key, lambda key=key: done.append(key))
        step.end()
    assert done == ["a", "b", "a", "b"]


def test_a_device_that_is_full_for_good_is_an_error() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceError, match="step of the optimizer") as error:
        with_emptied_cache(full)
    assert "offload" in error.value.hint
