"""An evaluation measures what it says, shows how far it is, and refuses strange datasets."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from itertools import count

import pytest
import torch

from jobs import evaluate as evaluation
from jobs.entry import JobContext
from jobs.evaluate import evaluate
from mulm.errors import NotFoundError, TokenizerMismatchError, TrainingDivergedError
from mulm.eval.compression import bits_per_byte
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.stored import load_model, store_model
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_model


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    """A run in a home with one model, `tiny@1`, and the dataset that it comes from."""
    store, ledger = Store(home.store), Ledger(home.ledger)
    dataset = tiny_dataset(store)
    model = store_model(
        store,
        tiny_model(),
        b"{}",
        "0" * 24,
        config={"seq_len": 16},
        parents={"dataset": dataset.id},
    )
    ledger.publish("dataset", "tiny", dataset.id)
    ledger.publish("model", "tiny", model.id)
    ledger.create_run("run_e", "evaluate", {})
    yield JobContext("run_e", home, store, ledger)
    ledger.close()


def test_the_result_names_what_was_measured_on_what(context: JobContext) -> None:
    result = evaluate(context, EvaluateConfig(model="tiny", device="cpu"))
    model, dataset = (context.facts.versions(kind)[0].manifest_id for kind in ("model", "dataset"))
    text = context.store.read(context.store.load(dataset).blob("validation.txt"))
    packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    expected = bits_per_byte(
        load_model(context.store, context.store.load(model)),
        context.store,
        context.store.load(dataset),
        seq_len=16,
        stride=8,
    )
    assert result["bits_per_byte"] == pytest.approx(expected, rel=0.01), (
        "rel: bf16 where it is fast"
    )
    del result["bits_per_byte"], result["verdict"]
    assert result == {
        "model": "tiny@1",
        "model_id": model,
        "dataset_id": dataset,
        "xz_bits_per_byte": pytest.approx(8 * len(packed) / len(text)),
        "bytes": 150,
        "seq_len": 16,
        "passes": bool(expected < 8 * len(packed) / len(text)),
    }


def test_progress_is_told_now_and_then_and_at_the_end(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(0, 0.2)
    tell = evaluation._progress(context, clock=lambda: next(ticks))
    for done in range(10, 101, 10):
        tell(done, 100)
    told = [e.data["done"] for e in context.facts.events("run_e") if e.kind == "progress"]
    assert told == [30, 60, 90, 100]
    evaluate(context, EvaluateConfig(model="tiny", device="cpu"))
    last = [e for e in context.facts.events("run_e") if e.kind == "progress"][-1]
    assert (last.data["stage"], last.data["done"], last.data["total"]) == ("evaluate", 149, 149)
    assert last.data["eta_s"] == 0


def test_another_tokenizer_is_refused(context: JobContext) -> None:
    other = tiny_dataset(context.store, tokenizer_fingerprint="1" * 24)
    context.facts.publish("dataset", "other", other.id)
    with pytest.raises(TokenizerMismatchError) as error:
        evaluate(context, EvaluateConfig(model="tiny", dataset="other", device="cpu"))
    assert "other@1" in error.value.message
    assert "1" * 24 in error.value.message
    assert "0" * 24 in error.value.message


def test_a_model_without_a_dataset_needs_one_named(context: JobContext) -> None:
    orphan = store_model(context.store, tiny_model(seed=1), b"{}", "0" * 24, config={}, parents={})
    context.facts.publish("model", "orphan", orphan.id)
    with pytest.raises(NotFoundError, match="orphan does not say which dataset") as caught:
        evaluate(context, EvaluateConfig(model="orphan", device="cpu"))
    assert "mulm eval orphan --dataset NAME" in caught.value.hint
    named = evaluate(context, EvaluateConfig(model="orphan", dataset="tiny", device="cpu"))
    assert named["dataset_id"] == tiny_dataset(context.store).id


def test_a_model_without_finite_numbers_says_so(context: JobContext) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    broken = store_model(
        context.store, model, b"{}", "0" * 24, config={},
        parents={"dataset": tiny_dataset(context.store).id},
    )  # fmt: skip
    context.facts.publish("model", "broken", broken.id)
    with pytest.raises(TrainingDivergedError):
        evaluate(context, EvaluateConfig(model="broken", device="cpu"))
