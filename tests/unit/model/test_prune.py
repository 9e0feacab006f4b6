"""Pruning cuts out what matters least and leaves the rest as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.errors import ConfigError
from mulm.model.importance import Importance, mean_loss, measure_importance
from mulm.model.microlm import MicroLM
from mulm.model.prune import candidate_shapes, cut, prune_model
from mulm.testing import TINY, tiny_model
from mulm.train.loss import sum_cross_entropy

DEEP = TINY.model_copy(update={"n_layers": 4, "d_ff": 128})


def batches(n: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, TINY.vocab_size, (n, 4, 17), generator=generator)
    return [(rows[:, :-1], rows[:, 1:]) for rows in ids]


def even(model: MicroLM) -> Importance:
    config = model.config
    layers = range(config.n_layers)
    return Importance(
        tuple(0.0 for _ in layers),
        tuple(torch.zeros(config.n_kv_heads) for _ in layers),
        tuple(torch.zeros(config.d_ff) for _ in layers),
    )


@pytest.mark.parametrize("keep", [0.4, 0.5, 0.75])
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_share_is_kept(keep: float, is_tied: bool) -> None:
    model = tiny_model(config=DEEP.model_copy(update={"tie_embeddings": is_tied}))
    result = prune_model(model, batches(), sum_cross_entropy, keep)
    n_parameters = sum(p.numel() for p in result.model.parameters())
    assert n_parameters == result.model.config.n_parameters
    assert (keep - 0.1) * DEEP.n_parameters < n_parameters
    assert n_parameters <= keep * model.config.n_parameters
    losses = {shape.model_dump_json(): loss for shape, loss in result.losses}
    assert losses[result.model.config.model_dump_json()] == min(losses.values())
    assert mean_loss(result.model, batches(), sum_cross_entropy) == pytest.approx(
        min(losses.values()), rel=1e-4
    )


def test_too_little_names_what_is_possible() -> None:
    with pytest.raises(ConfigError) as error:
        candidate_shapes(DEEP, 0.05)
    share = float(error.value.hint.rpartition(" ")[2])
    assert candidate_shapes(DEEP, share)


def test_parts_that_do_nothing_go_and_nothing_changes() -> None:
    """One layer, one kv head and half of the feed-forward units write zeros."""
    model = tiny_model(config=DEEP)
    with torch.no_grad():
        model.blocks[1].attention.out.weight.zero_()
        model.blocks[1].mlp.down.weight.zero_()
        for block in model.blocks:
            block.attention.out.weight[:, :16].zero_()
            block.mlp.down.weight[:, ::2].zero_()
    shape = DEEP.model_copy(update={"n_layers": 3, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64})
    measured = measure_importance(model, batches(), sum_cross_entropy)
    assert measured.layers[1] == 0
    smaller = cut(model, shape, replace(measured, layers=(1.0, 0.0, 1.0, 1.0)))
    ids_BT = torch.arange(40).view(2, 20)
    torch.testing.assert_close(smaller(ids_BT), model(ids_BT))


def test_measuring_changes_nothing() -> None:
    model = tiny_model(config=DEEP).requires_grad_(False)
    before, n_blocks = model(torch.arange(9)[None]), len(model.blocks)
    importance = measure_importance(model, batches(), sum_cross_entropy)
    assert torch.equal(model(torch.arange(9)[None]), before)
    assert len(model.blocks) == n_blocks == len(importance.layers)
    assert importance.kv_heads[0].shape == (DEEP.n_kv_heads,)
    assert importance.d_ff[0].shape == (DEEP.d_ff,)
    assert all(bool((worth > 0).any()) for worth in importance.d_ff)


def test_gates_tell_what_closing_them_does() -> None:
    """To first order: the worth of a unit with a tiny output is the square of its effect."""
    model = tiny_model()
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[:, 5] *= 0.03
    row = [(x[:1], y[:1]) for x, y in batches(1)]
    worth = float(measure_importance(model, row, sum_cross_entropy).d_ff[0][5])
    before = mean_loss(model, row, sum_cross_entropy)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[:, 5] = 0
    effect = (mean_loss(model, row, sum_cross_entropy) - before) * row[0][1].numel()
    assert effect**2 == pytest.approx(worth, rel=0.25)


def test_all_may_stay() -> None:
    model = tiny_model()
    same = cut(model, TINY, even(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
