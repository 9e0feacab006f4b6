"""A student comes to predict what its teacher predicts, from whichever weights it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.config import parse_config
from mulm.errors import ConfigError, ConflictError, NotFoundError, TokenizerMismatchError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import load_model, store_model
from mulm.runs.identity import train_identity
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.local import train_locally

FINGERPRINT = "0" * 24
VALUES: dict[str, Any] = {
    "name": "student", "dataset": "tiny", "steps": 40, "batch_tokens": 256, "seq_len": 16,
    "precision": "fp32", "device": "cpu", "log_every": 1, "validate_every": 100,
    "optimizer": {"embedding_lr": 0.01},
}  # fmt: skip


@pytest.fixture
def facts(home: Home) -> Iterator[Ledger]:
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(store).id)
        yield ledger


def publish(
    home: Home, facts: Ledger, name: str, model: Any, fingerprint: str = FINGERPRINT
) -> str:
    store = Store(home.store)
    made = store_model(store, model, b"{}", fingerprint, config={}, parents={})
    return facts.publish("model", name, made.id).manifest_id


def run(home: Home, facts: Ledger, run_id: str, **changes: Any) -> dict[str, Any]:
    config = parse_config(TrainConfig, VALUES | changes)
    facts.create_run(run_id, "train", {})
    return train_locally(config, run_id, home, Store(home.store), facts)


def losses(facts: Ledger, run_id: str) -> list[float]:
    return [e.data["loss"] for e in facts.events(run_id) if "loss" in e.data]


def test_the_divergence_from_the_teacher_falls(home: Home, facts: Ledger) -> None:
    teacher_id = publish(home, facts, "teacher", tiny_model(1))
    result = run(home, facts, "run_d", teacher="teacher", model=TINY_SHAPE | {"n_layers": 1})
    first, *_, last = losses(facts, "run_d")
    assert 0 < last < 0.7 * first
    parents = Store(home.store).load(result["model_id"]).parents
    assert parents["teacher"] == teacher_id


def test_a_student_that_is_its_teacher_has_nothing_to_learn(home: Home, facts: Ledger) -> None:
    publish(home, facts, "teacher", tiny_model(1))
    run(home, facts, "run_same", teacher="teacher", init_from="teacher", steps=1)
    assert losses(facts, "run_same") == pytest.approx([0.0], abs=1e-5)


def test_training_goes_on_from_a_model(home: Home, facts: Ledger) -> None:
    first = run(home, facts, "run_one", model=TINY_SHAPE, steps=30)
    second = run(home, facts, "run_two", name="again", init_from="student", steps=1)
    assert losses(facts, "run_two")[0] < losses(facts, "run_one")[0] - 0.5
    made = Store(home.store).load(second["model_id"])
    assert made.parents["init_from"] == first["model_id"]
    assert load_model(Store(home.store), made).config == TINY


def test_a_run_that_began_with_a_model_does_not_go_on_without_it(home: Home, facts: Ledger) -> None:
    publish(home, facts, "teacher", tiny_model(1))
    run(home, facts, "run_r", teacher="teacher", model=TINY_SHAPE, steps=3)
    config = parse_config(TrainConfig, VALUES | {"model": TINY_SHAPE, "steps": 3})
    with pytest.raises(ConfigError, match="the run began with the teacher"):
        train_locally(config, "run_r", home, Store(home.store), facts)


def test_another_beginning_is_another_run(home: Home, facts: Ledger) -> None:
    store = Store(home.store)
    plain = parse_config(TrainConfig, VALUES)
    taught = parse_config(TrainConfig, VALUES | {"teacher": "teacher"})
    publish(home, facts, "teacher", tiny_model(1))
    one = train_identity(taught, facts, store)
    assert train_identity(plain, facts, store) != one
    publish(home, facts, "teacher", tiny_model(2))
    assert train_identity(taught, facts, store) != one


@pytest.mark.parametrize("role", ["init_from", "teacher"])
def test_a_model_that_does_not_fit_is_refused(home: Home, facts: Ledger, role: str) -> None:
    with pytest.raises(NotFoundError):
        run(home, facts, "run_none", **{role: "nobody"})
    publish(home, facts, "foreign", tiny_model(1), "1" * 24)
    with pytest.raises(TokenizerMismatchError, match=f"{role}: foreign@1"):
        run(home, facts, "run_foreign", **{role: "foreign"})
    publish(home, facts, "short", tiny_model(1))
    with pytest.raises(ConfigError, match="the window of short is 64 tokens"):
        run(home, facts, "run_short", **{role: "short"}, seq_len=128)


def test_embeddings_that_stand_for_nothing_are_refused(home: Home, facts: Ledger) -> None:
    padded = TINY.model_copy(update={"vocab_size": 80})
    publish(home, facts, "padded", tiny_model(1, padded))
    with pytest.raises(ConfigError, match="padded@1 has 80 embeddings, the dataset has 64 ids"):
        run(home, facts, "run_padded", teacher="padded", model=TINY_SHAPE)


def test_licences_add_up(home: Home, facts: Ledger) -> None:
    store = Store(home.store)
    made = store_model(
        store, tiny_model(1), b"{}", FINGERPRINT, config={}, parents={}, licences=("theirs",)
    )
    facts.publish("model", "theirs", made.id)
    result = run(home, facts, "run_l", init_from="theirs", steps=1)
    assert store.load(result["model_id"]).licences == ("theirs",)


def test_rounded_weights_are_not_trained(home: Home, facts: Ledger, tmp_path: Path) -> None:
    rounded = QuantizedMicroLM.of(tiny_model(1), Quantization(linear="int8", embedding="int8"))
    publish(home, facts, "rounded", rounded)
    with pytest.raises(ConflictError, match="init_from: rounded@1 is quantised"):
        run(home, facts, "run_rounded", init_from="rounded")
    run(home, facts, "run_taught", teacher="rounded", model=TINY_SHAPE, steps=1)


def test_a_shape_beside_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave preset and model away"):
        parse_config(TrainConfig, VALUES | {"init_from": "a", "model": TINY_SHAPE})
    config = parse_config(TrainConfig, VALUES | {"init_from": "a"})
    assert parse_config(TrainConfig, config.model_dump()) == config


def test_the_teacher_is_not_changed(home: Home, facts: Ledger) -> None:
    teacher = tiny_model(1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    publish(home, facts, "teacher", teacher)
    run(home, facts, "run_d", teacher="teacher", model=TINY_SHAPE, steps=3)
    store = Store(home.store)
    after = load_model(store, store.load(facts.versions("model", "teacher")[-1].manifest_id))
    assert all(torch.equal(t, before[name]) for name, t in after.state_dict().items())
