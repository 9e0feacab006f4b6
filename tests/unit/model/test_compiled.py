"""Compiled = plain: values, gradients, and whole runs that are killed and resumed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mulm.model.compiled import keep_compiled_in, why_not_compile
from mulm.model.compute import Compute
from mulm.model.lora import adapt
from mulm.model.microlm import MicroLM
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.loss import sum_cross_entropy
from mulm.train.optim import learned_parameters
from mulm.train.result import TrainResult

needs_compiler = pytest.mark.skipif(
    bool(why_not_compile("cpu")), reason=f"nothing to compile with: {why_not_compile('cpu')}"
)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        keep_compiled_in(tmp_path_factory.mktemp("compiled"))


def run(model: MicroLM, ids_BT: Tensor, compute: Compute, z_weight: float) -> list[Tensor]:
    """The loss and all gradients."""
    model.zero_grad(set_to_none=True)
    dtype = compute.dtype or torch.float32
    targets_N = ids_BT[:, 1:].flatten().clone()
    targets_N[::5] = -100
    loss = sum_cross_entropy(
        model(ids_BT[:, :-1], compute).flatten(0, 1), model.output_weight_VD, targets_N, dtype,
        chunk_tokens=8, z_weight=z_weight, is_compiled=compute.is_compiled,
    )  # fmt: skip
    torch.autograd.backward(loss)
    return [loss.detach(), *[p.grad for p in model.parameters() if p.grad is not None]]


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    """Between two lists, as a share of the second's length."""
    some_N, others_N = (torch.cat([t.flatten() for t in tensors]) for tensors in (some, others))
    return float((some_N - others_N).norm() / others_N.norm())


@pytest.mark.slow
@needs_compiler
def test_compiled_is_plain() -> None:
    model, generator = tiny_model().train(), torch.Generator().manual_seed(3)
    ids_BT = torch.randint(0, TINY.vocab_size, (4, 18), generator=generator)
    exact = run(model, ids_BT, Compute(torch.float32), 1e-3)
    for is_checkpointed in (False, True):
        fused = run(model, ids_BT, Compute(torch.float32, "auto", is_checkpointed, True), 1e-3)
        assert distance(fused, exact) < 1e-5
        rough, plain = (
            run(model, ids_BT, Compute(torch.bfloat16, "auto", is_checkpointed, compiled), 1e-3)
            for compiled in (True, False)
        )
        assert 0 < distance(rough, exact) < 1.2 * distance(plain, exact)


@pytest.mark.slow
@needs_compiler
def test_compiled_adapters_are_plain_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    model = adapt(
        tiny_model().train(), rank=2, scale=2.0, matrices=("q", "down"), generator=generator
    )
    for parameter in learned_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    ids_BT = torch.randint(0, TINY.vocab_size, (4, 18), generator=generator)
    exact = run(model, ids_BT, Compute(torch.float32), 0.0)
    fused = run(model, ids_BT, Compute(torch.float32, is_compiled=True), 0.0)
    assert len(fused) == 1 + len(learned_parameters(model))
    assert distance(fused[1:], exact[1:]) < 1e-5


class Killed(BaseException):
    """What SIGKILL is to a process."""


def train_tiny(store: Store, folder: Path, kill_at: int | None = None) -> TrainResult:
    config = TrainConfig.model_validate(
        {
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 8,
            "batch_tokens": 80, "seq_len": 16, "micro_batch_rows": 3, "checkpoint_every": 2,
            "compile": True, "precision": "bf16",
        }
    )  # fmt: skip
    n_asked = 0

    def should_stop() -> bool:
        nonlocal n_asked
        n_asked += 1
        if n_asked == kill_at:
            raise Killed
        return False

    context = LocalContext(
        store, tiny_dataset(store), folder, torch.device("cpu"), lambda *_: None, should_stop
    )
    return train(config, context)


@pytest.mark.slow
@needs_compiler
def test_a_killed_compiled_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Its micro-batches are of 3 and 2 rows, so two shapes alternate."""
    store = Store(tmp_path / "store")
    whole = train_tiny(store, tmp_path / "whole")
    with pytest.raises(Killed):
        train_tiny(store, tmp_path / "killed", kill_at=6)
    torch.compiler.reset()
    assert train_tiny(store, tmp_path / "killed").model_id == whole.model_id


def test_the_place_of_compiled_code_is_the_users_if_they_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled_in(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
