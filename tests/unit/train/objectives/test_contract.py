"""What every objective promises the loop, shown for ours; a stranger's needs one more entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mulm.model.checkpoint import checkpoints
from mulm.model.stored import store_model
from mulm.model.transformer_config import TransformerConfig
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset, tiny_model, tiny_stored_model
from mulm.train.config import LoraConfig, PreferenceConfig, TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.objectives.base import Objective
from mulm.train.objectives.distillation import Distillation
from mulm.train.objectives.preference import Preference
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.objectives.reversal import Reversal
from mulm.train.optim import learned_parameters
from mulm.train.sync.single import SingleSync

SMALL = TransformerConfig(
    vocab_size=8, d_model=16, n_layers=1, n_heads=2, d_ff=32, dropout=0.2, max_seq_len=16
)
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 6, "batch_tokens": 112,
        "seq_len": 16, "log_every": 1, "validate_every": 4, "checkpoint_every": 2,
        "precision": "fp32", "optimizer": {"kind": "adamw"},
    }
)  # fmt: skip
Make = Callable[[TrainConfig, LocalContext], Objective[Any, Any]]
OBJECTIVES: dict[str, Make] = {
    "pretraining": Pretraining,
    "pretraining from a model": lambda config, context: Pretraining(
        config, with_models(context, "init_from")
    ),
    "distillation": lambda config, context: Distillation(config, with_models(context, "teacher")),
    "adapters": lambda config, context: Pretraining(
        stage(config, lora=LoraConfig(rank=3)), with_models(context, "init_from")
    ),
    "distillation with adapters": lambda config, context: Distillation(
        stage(config, teacher="m", lora=LoraConfig(rank=3, matrices=("v", "down"))),
        with_models(context, "init_from", "teacher"),
    ),
    "reversal": lambda config, context: Reversal(config, context, SMALL, n_held_out=9),
}


def stage(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The config of a stage that begins with a model."""
    return config.model_copy(update={"init_from": "m", "model": {}} | changes)


def with_models(context: LocalContext, *roles: str) -> LocalContext:
    """The context of a config that names a model in each role."""
    models = {
        role: store_model(context.store, tiny_model(seed), b"{}", "0" * 24, config={}, parents={})
        for seed, role in enumerate(roles, start=5)
    }
    return replace(context, models=models)


class Stop(BaseException):
    """What SIGKILL is to a process."""


@pytest.fixture(params=[*OBJECTIVES, "preference", "preference with adapters"])
def make(request: pytest.FixtureRequest, rows: Any, build_rows: Any, tokenizer_of: Any) -> Make:
    if request.param in OBJECTIVES:
        return OBJECTIVES[request.param]
    lora = LoraConfig(rank=3) if "adapters" in request.param else None
    changes = {"preference": PreferenceConfig(), "lora": lora, "seq_len": 64, "batch_tokens": 896}

    def preference(config: TrainConfig, context: LocalContext) -> Preference:
        dataset = build_rows(context.store, rows.pairs)
        base = tiny_stored_model(context.store, tokenizer_of(context.store, dataset))
        context = replace(context, dataset=dataset, models={"init_from": base})
        return Preference(stage(config, **changes), context)

    return preference


def a_context(folder: Path, rank: int = 0, world_size: int = 1, kill_at: int = 0) -> LocalContext:
    asked = 0

    def is_stopping() -> bool:
        nonlocal asked
        asked += 1
        if asked == kill_at:
            raise Stop
        return False

    store = Store(folder / "store")
    return LocalContext(
        store, tiny_dataset(store), folder / "run", torch.device("cpu"), lambda *_: None,
        is_stopping, rank=rank, world_size=world_size,
    )  # fmt: skip


def built(objective: Objective[Any, Any]) -> Any:
    return objective.build(torch.Generator().manual_seed(3)).train()


def gradient(objective: Objective[Any, Any], batches: Iterable[Any]) -> tuple[Tensor, float]:
    model, count = built(objective), 0.0
    for batch in batches:
        loss = objective.loss(model, batch, torch.float32)
        loss.total.backward()
        count += loss.count
    gradients = [parameter.grad for parameter in learned_parameters(model).values()]
    assert all(gradient is not None for gradient in gradients), "every parameter has a part"
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]), count


def test_the_same_arguments_give_the_same_gradients(make: Make, tmp_path: Path) -> None:
    objective, twin = (make(CONFIG, a_context(tmp_path)) for _ in range(2))
    first, n_first = gradient(objective, objective.micro_batches(2, 0, CONFIG.n_rows))
    list(twin.micro_batches(5, 0, 3))
    again, n_again = gradient(twin, twin.micro_batches(2, 0, CONFIG.n_rows))
    assert torch.equal(first, again)
    assert n_first == n_again > 0
    other, _ = gradient(objective, objective.micro_batches(3, 0, CONFIG.n_rows))
    assert len(other) == len(first)
    assert not torch.equal(first, other)


def test_workers_together_have_all_rows(tmp_path: Path, make: Make) -> None:
    objective = make(CONFIG, a_context(tmp_path))
    whole = tensors(objective.micro_batches(1, 0, CONFIG.n_rows))
    parts = [tensors(objective.micro_batches(1, start, stop)) for start, stop in ((0, 3), (3, 7))]
    for place, tensor in enumerate(whole):
        assert torch.equal(tensor, torch.cat([part[place] for part in parts]))


def tensors(batches: Iterable[Any]) -> list[Tensor]:
    """The tensors of all pieces, joined."""
    rows = [[field for field in batch if isinstance(field, Tensor)] for batch in batches]
    return [torch.cat(column) for column in zip(*rows, strict=True)]


class Recorded(SingleSync):
    """Remembers what a worker adds to the sum, and answers with a sum that is given."""

    def __init__(self, total: Sequence[float] = ()) -> None:
        self.own: list[float] = []
        self.total = list(total)

    def sum_values(self, values: Sequence[float]) -> list[float]:
        self.own = list(values)
        return self.total or self.own


@pytest.mark.parametrize("n_shrinks", [0, 2])
def test_validation_is_the_same_for_two_workers(tmp_path: Path, make: Make, n_shrinks: int) -> None:
    alone = make(CONFIG, a_context(tmp_path))
    pair = [make(CONFIG, a_context(tmp_path, rank, 2)) for rank in range(2)]
    for _ in range(n_shrinks):
        pair[1].shrink()  # as after running out of memory
    model, shares = built(alone), [Recorded(), Recorded()]
    for objective, share in zip(pair, shares, strict=True):
        objective.validate(model, torch.float32, share)
    total = [sum(column) for column in zip(*(share.own for share in shares), strict=True)]
    expected = alone.validate(model, torch.float32, SingleSync())
    for objective in pair:
        found = objective.validate(model, torch.float32, Recorded(total))
        assert found == pytest.approx(expected, rel=1e-5)
    assert alone.judged_by in expected


def test_validation_leaves_the_model_as_it_was(tmp_path: Path, make: Make) -> None:
    objective = make(CONFIG, a_context(tmp_path))
    model = built(objective)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective.validate(model, torch.float32, SingleSync())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fewer_rows_at_once_are_the_same_step(make: Make, tmp_path: Path) -> None:
    objective, twin = (make(CONFIG, a_context(tmp_path)) for _ in range(2))
    whole, count = gradient(twin, twin.micro_batches(1, 0, CONFIG.n_rows))
    rows = objective.shrink()
    while rows is not None and rows > 2:
        rows = objective.shrink()
    assert rows == 2
    pieces = list(objective.micro_batches(1, 0, CONFIG.n_rows))
    assert len(pieces) == 4
    found, n_found = gradient(objective, pieces)
    assert n_found == count
    if not isinstance(objective, Reversal):  # its dropout is drawn by piece
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)
    assert objective.shrink() == 1
    assert objective.shrink() is None


def test_the_origin_is_json(tmp_path: Path, make: Make) -> None:
    origin = make(CONFIG, a_context(tmp_path)).origin
    assert json.loads(json.dumps(origin)) == origin


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, make: Make) -> None:
    def run(folder: Path, kill_at: int = 0) -> Any:
        context = a_context(folder, kill_at=kill_at)
        return train(CONFIG, context, make(CONFIG, context))

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", kill_at=4)
    assert run(tmp_path / "cut").model_id == whole.model_id
    ends = [checkpoints(tmp_path / name / "run/checkpoints")[-1] for name in ("whole", "cut")]
    for file in ("tensors.safetensors", "state.json"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
