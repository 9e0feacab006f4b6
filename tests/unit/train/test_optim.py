"""The optimizers do what their papers say, and their state can be saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mulm.errors import CorruptError
from mulm.testing import TINY, settled_optimizer, tiny_model
from mulm.train import adamw, muon
from mulm.train.adamw import AdamW
from mulm.train.gradients import clip_gradients, grad_norm
from mulm.train.muon import polar_factor
from mulm.train.optim import Optimizer
from mulm.train.weight_decay import is_block_matrix


def random_gradients(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_polar_factor_has_unit_singular_values() -> None:
    matrices = torch.randn(3, 12, 30, generator=torch.Generator().manual_seed(0))
    factor = polar_factor(matrices)
    assert ((torch.linalg.svdvals(factor) - 1).abs() < 0.2).all()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (
        torch.nn.functional.cosine_similarity(factor.flatten(1), (left @ right).flatten(1)).min()
        > 0.99
    )


def test_adamw_equals_torch() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 10)) for _ in range(2))
    mine = AdamW({"x": ours}, lr=0.01, weight_decay=0.0)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0)
    for seed in range(5):
        gradient = torch.randn(10, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step(1.0)
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_weight_decay_equals_torch() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    mine = AdamW({"blocks.0.x": ours}, lr=0.01, weight_decay=0.5)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.5)
    for seed in range(5):
        gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step(1.0)
        reference.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_cautious_decay_is_where_the_update_shrinks_too(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adamw, "PART_NUMBERS", 512)

    def after(**changes: object) -> dict[str, torch.Tensor]:
        model, values = tiny_model(), {"kind": kind, **changes}
        optimizer = Optimizer(model, settled_optimizer(**values), torch.float32)
        random_gradients(model)
        optimizer.step(1.0)
        return {name: p.detach() for name, p in model.named_parameters()}

    before = dict(tiny_model().named_parameters())
    bare, plain = after(), after(weight_decay=0.1)
    cautious = after(weight_decay=0.1, cautious_decay=True)
    for name, moved in bare.items():
        if not is_block_matrix(name, moved):
            assert torch.equal(cautious[name], moved)
            continue
        shrinks = (before[name] - moved) * before[name] > 0
        assert 0 < int(shrinks.sum()) < shrinks.numel()
        expected = torch.where(shrinks, plain[name], moved)
        torch.testing.assert_close(cautious[name], expected.detach())


def test_frozen_parameters_have_no_state() -> None:
    model = tiny_model().requires_grad_(True)
    model.embedding.requires_grad_(False)
    optimizer = Optimizer(model, settled_optimizer(kind="adamw"), torch.float32)
    assert "embedding.weight" not in optimizer.adamw.parameters
    assert not [name for name in optimizer.tensors() if "embedding" in name]


def test_each_parameter_has_one_rule() -> None:
    model = tiny_model().requires_grad_(True)
    muon = Optimizer(model, settled_optimizer(), torch.float32)
    assert set(muon.muon.parameters) == {
        name for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name
    }
    assert set(muon.muon.parameters) | set(muon.adamw.parameters) == set(
        dict(model.named_parameters())
    )
    adamw = Optimizer(model, settled_optimizer(kind="adamw"), torch.float32)
    assert not adamw.muon.parameters


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16", "int8"])
def test_state_can_be_saved(kind: str, state_dtype: str) -> None:
    config = settled_optimizer(kind=kind, state_dtype=state_dtype)
    shape = TINY.model_copy(update={"d_ff": 160})  # large enough for codes, and no whole block
    whole, cut = tiny_model(config=shape), tiny_model(config=shape)
    first, second = (Optimizer(model, config, torch.float32) for model in (whole, cut))
    for model, optimizer in ((whole, first), (cut, second)):
        random_gradients(model)
        optimizer.step(1.0)
    resumed = Optimizer(cut, config, torch.float32)
    resumed.load_tensors({name: t.clone() for name, t in second.tensors().items()})
    for model, optimizer in ((whole, first), (cut, resumed)):
        random_gradients(model, seed=1)
        optimizer.step(0.5)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_another_model_or_type_is_refused() -> None:
    optimizer = Optimizer(tiny_model(), settled_optimizer(), torch.float32)
    with pytest.raises(CorruptError):
        optimizer.load_tensors({"n_steps": torch.zeros(1)})
    other = Optimizer(tiny_model(), settled_optimizer(state_dtype="bf16"), torch.float32)
    with pytest.raises(CorruptError):
        optimizer.load_tensors(other.tensors())


def test_slices_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("muon", "adamw"):
        found = []
        for numbers in (1 << 20, 512):
            monkeypatch.setattr(adamw, "PART_NUMBERS", numbers)
            monkeypatch.setattr(muon, "BATCH_NUMBERS", numbers)
            model = tiny_model()
            config = settled_optimizer(kind=kind)
            optimizer = Optimizer(model, config, torch.float32)
            for seed in range(2):
                random_gradients(model, seed)
                optimizer.step(1.0)
            found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        torch.testing.assert_close(found[0], found[1])


def test_clipping_keeps_the_direction() -> None:
    model = tiny_model()
    random_gradients(model)
    named = dict(model.named_parameters())
    clip_gradients(named, 0.0)
    assert grad_norm(named) > 1
    clip_gradients(named, 1.0)
    assert grad_norm(named) == pytest.approx(1.0, rel=1e-5)
