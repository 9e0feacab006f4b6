"""A smaller model is a version like any other, made from its parent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.compress import compress
from jobs.entry import JobContext
from jobs.evaluate import evaluate
from mulm.errors import ConfigError, ConflictError, NotFoundError, UnknownNameError
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.compress_config import CompressConfig
from mulm.model.quantized import QuantizedMicroLM
from mulm.model.stored import load_model, store_model
from mulm.runs.identity import compress_identity, run_id_of
from mulm.store import Store
from mulm.testing import TINY, tiny_dataset, tiny_model


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    """A home with two models: `tiny@1`, and `orphan@1` of an unknown dataset."""
    store, ledger = Store(home.store), Ledger(home.ledger)
    dataset = tiny_dataset(store)
    for name, seed, parents in (("tiny", 0, {"dataset": dataset.id}), ("orphan", 1, {})):
        model = store_model(
            store, tiny_model(seed), b"{}", "0" * 24, config={"seq_len": 16}, parents=parents,
            licences=("mine",),
        )  # fmt: skip
        ledger.publish("model", name, model.id)
    ledger.create_run("run_c", "compress", {})
    yield JobContext("run_c", home, store, ledger)
    ledger.close()


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_a_quantized_model_has_its_parent_and_is_evaluated(context: JobContext, to: str) -> None:
    result = compress(context, CompressConfig(model="tiny", to=to))
    again = compress(context, CompressConfig(model="tiny@1", to=to))
    assert result["model"] == again["model"] == f"tiny-{to}@1"
    assert result["model_id"] == again["model_id"]
    manifest = context.store.load(result["model_id"])
    source = context.facts.versions("model")[0].manifest_id
    assert manifest.parents["model"] == source
    assert manifest.licences == ("mine",)
    assert isinstance(load_model(context.store, manifest), QuantizedMicroLM)
    assert result["size_bytes"] == manifest.blob("model.safetensors").size_bytes
    whole = evaluate(context, EvaluateConfig(model="tiny", device="cpu"))
    small = evaluate(context, EvaluateConfig(model=result["model"], device="cpu"))
    assert small["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=0.1)
    assert small["dataset_id"] == whole["dataset_id"]


def test_a_pruned_model_is_an_ordinary_one(context: JobContext) -> None:
    config = CompressConfig(model="tiny", to="pruned", keep=0.6, name="half", sample_tokens=512)
    result = compress(context, config)
    assert result["model"] == "half@1"
    assert result["parameters"] <= 0.6 * TINY.n_parameters
    assert result["share"] == pytest.approx(result["parameters"] / TINY.n_parameters, abs=1e-4)
    model = load_model(context.store, context.store.load(result["model_id"]))
    assert type(model).__name__ == "MicroLM"
    assert evaluate(context, EvaluateConfig(model="half", device="cpu"))["bits_per_byte"] > 0
    told = [e.data["text"] for e in context.facts.events("run_c") if e.kind == "log"]
    assert any("nats a token" in text for text in told)
    small = compress(context, CompressConfig(model="half", to="int8"))
    assert small["model"] == "half-int8@1"


@pytest.mark.slow
def test_what_is_said_or_left_to_the_default_is_the_same_run_and_version(
    context: JobContext,
) -> None:
    facts, store = context.facts, context.store
    made = set()
    for values in ({}, {"keep": 0.9, "device": "cpu"}, {"keep": 0.9, "sample_tokens": 16384}):
        config = CompressConfig.model_validate(
            {"model": "tiny", "to": "pruned", "keep": 0.9} | values
        )
        run_id = run_id_of("compress", config, compress_identity(config, facts, store))
        made.add((run_id, compress(context, config)["model_id"]))
    assert len(made) == 1
    assert CompressConfig(model="tiny", to="pruned") == CompressConfig(
        model="tiny", to="pruned", keep=0.5, sample_tokens=16384
    )
    manifest = store.load(compress(context, CompressConfig(model="tiny", to="int8"))["model_id"])
    assert manifest.config["compress"] == {"to": "int8"}


def test_what_cannot_be_made_smaller_says_why(context: JobContext) -> None:
    compress(context, CompressConfig(model="tiny", to="int8"))
    with pytest.raises(ConflictError, match="is quantised"):
        compress(context, CompressConfig(model="tiny-int8", to="int4"))
    with pytest.raises(NotFoundError, match="dataset"):
        compress(context, CompressConfig(model="orphan", to="pruned"))
    with pytest.raises(ConfigError, match="keep"):
        compress(context, CompressConfig(model="tiny", to="pruned", keep=0.01))


def test_mistakes_in_the_config() -> None:
    with pytest.raises(UnknownNameError) as error:
        CompressConfig(model="tiny", to="int5")
    assert "int" in error.value.hint
    for values in (
        {"to": "int4", "keep": 0.5},
        {"to": "int8", "sample_tokens": 512},
        {"to": "int4", "name": "a b"},
    ):
        with pytest.raises(ValueError):
            CompressConfig(model="tiny", **values)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        CompressConfig(model="@@", to="int4")
    assert CompressConfig(model="a@live", to="int4").result_name == "a-int4"
