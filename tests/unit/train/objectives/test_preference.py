"""Preference: the loss and its gradient are the paper's, and pairs are learned."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mulm.config import parse_config
from mulm.data.pairs import Answer, PairLoader
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, TrainingDivergedError
from mulm.manifest import Manifest
from mulm.model.lora import is_adapter
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model
from mulm.store import Store
from mulm.testing import tiny_stored_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.objectives.preference import Preference
from mulm.train.result import TrainResult
from mulm.train.sync.single import SingleSync

VALUES: dict[str, Any] = {
    "name": "tuned", "dataset": "pairs", "init_from": "base", "preference": {}, "steps": 6,
    "batch_tokens": 896, "seq_len": 64, "precision": "fp32", "log_every": 1,
    "validate_every": 3, "checkpoint_every": 2, "optimizer": {"kind": "adamw"},
}  # fmt: skip
Events = list[tuple[str, dict[str, Any]]]


def a_config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(VALUES | changes)


@pytest.fixture
def context(tmp_path: Path, build_rows: Any, rows: Any, tokenizer_of: Any) -> LocalContext:
    store = Store(tmp_path / "store")
    dataset: Manifest = build_rows(store, rows.pairs)
    tokenizer: Tokenizer = tokenizer_of(store, dataset)
    base = tiny_stored_model(store, tokenizer)
    return LocalContext(
        store, dataset, tmp_path / "run", torch.device("cpu"), lambda *_: None, lambda: False,
        models={"init_from": base},
    )  # fmt: skip


def reward(model: MicroLM, reference: MicroLM, answer: Answer, beta: float, mean: bool) -> Tensor:
    """One conversation by itself, with the full logits."""
    ids_T = torch.tensor(list(answer.ids))
    learned_T = torch.tensor(list(answer.learned)[1:]).bool()
    sums = []
    for each in (model, reference):
        log_probs_TV = each.logits(each(ids_T[None, :-1])[0]).log_softmax(dim=1)
        own_T = log_probs_TV.gather(1, ids_T[1:, None])[learned_T]
        sums.append(own_T.mean() if mean else own_T.sum())
    return beta * (sums[0] - sums[1].detach())


@pytest.mark.parametrize(
    "rules",
    [{}, {"beta": 0.5, "label_smoothing": 0.2}, {"length_normalised": True, "beta": 2.0}],
)
@pytest.mark.parametrize("rows_at_once", [7, 2])
def test_the_gradient_is_that_of_the_plain_computation(
    context: LocalContext, rules: dict[str, Any], rows_at_once: int
) -> None:
    config = a_config(preference=rules, micro_batch_rows=rows_at_once)
    objective, reference = Preference(config, context), load_base(context)
    models = [moved(context) for _ in range(2)]
    total, count = 0.0, 0.0
    for batch in objective.micro_batches(1, 0, 7):
        part = objective.loss(models[0], batch, torch.float32)
        part.total.backward()  # type: ignore[no-untyped-call]
        total, count = total + float(part.total.detach()), count + part.count

    given = config.preference
    assert given is not None
    loader = PairLoader(context.store, context.dataset, max_tokens=65)
    losses = []
    for pair in loader.batch(1, 7):
        better, worse = (
            reward(models[1], reference, side, given.beta, given.length_normalised)
            for side in (pair.chosen, pair.rejected)
        )
        right, wrong = (-functional.logsigmoid(m) for m in (better - worse, worse - better))
        losses.append((1 - given.label_smoothing) * right + given.label_smoothing * wrong)
    torch.stack(losses).sum().backward()

    assert count == 7
    assert total == pytest.approx(float(torch.stack(losses).sum().detach()), rel=1e-4)
    for ours, plain in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4)


def load_base(context: LocalContext) -> MicroLM:
    return load_model(context.store, context.models["init_from"])


def moved(context: LocalContext) -> MicroLM:
    """The base after some training: every weight is a little different."""
    model, generator = load_base(context), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(True).train()


def run(config: TrainConfig, context: LocalContext) -> tuple[TrainResult, Events]:
    events: Events = []
    told = replace(context, on_event=lambda kind, data: events.append((kind, dict(data))))
    return train(config, told), events


def metrics(events: Events, name: str) -> list[float]:
    return [data[name] for kind, data in events if kind == "metric" and name in data]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["whole", "adapters"])
def test_pairs_are_learned(context: LocalContext, lora: dict[str, Any] | None) -> None:
    rates = {"kind": "adamw", "embedding_lr": 0.005 if lora else 0.001}
    config = a_config(steps=30, validate_every=30, lora=lora, optimizer=rates)
    result, events = run(config, context)
    losses = metrics(events, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4), "it begins as its reference"
    assert metrics(events, "margin")[0] == pytest.approx(0, abs=1e-3)
    assert losses[-1] < 0.3
    assert metrics(events, "accuracy")[-1] == 1.0
    assert metrics(events, "margin")[-1] > 1
    assert result.judged_by == "preference_loss"
    assert result.validation < 0.5
    assert metrics(events, "validation_accuracy")[-1] > 0.9
    made = context.store.load(result.model_id)
    assert made.parents["init_from"] == context.models["init_from"].id
    assert not any(
        is_adapter(name) for name, _ in load_model(context.store, made).named_parameters()
    )


def test_the_reference_is_not_changed(context: LocalContext) -> None:
    objective = Preference(a_config(), context)
    before = {name: t.clone() for name, t in load_base(context).state_dict().items()}
    train(a_config(), context, objective)
    assert objective._reference is not None
    after = objective._reference.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_numbers_that_are_not_finite_are_divergence(context: LocalContext) -> None:
    objective, model = Preference(a_config(), context), moved(context)
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    with pytest.raises(TrainingDivergedError, match="held-out pairs"):
        objective.validate(model, torch.float32, SingleSync())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": None}, "preference changes a model"),
        ({"teacher": "big"}, "two stages"),
        ({"documents": "apart"}, "leave documents away"),
        ({"z_loss": 0.1}, "z_loss is for learning from text"),
        ({"batch_tokens": 64}, "multiple of twice seq_len .128., such as 128"),
        ({"preference": {"label_smoothing": 0.5}}, "preference.label_smoothing"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, VALUES | change)


def test_room_is_left_for_the_reference() -> None:
    assert a_config().frozen_models == ("init_from",)
    assert a_config(lora={}).frozen_models == (), "it is the adapted model without its adapters"
    plain = {"preference": None, "init_from": None}
    assert a_config(**plain).frozen_models == ()
    assert a_config(**plain, teacher="big").frozen_models == ("teacher",)
