"""An evaluation measures what it says, shows how far it is, and refuses strange datasets."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from jobs import evaluate as evaluation
from jobs.cli import cli
from jobs.entry import JobContext
from jobs.evaluate import evaluate
from mulm.errors import (
    ConfigError,
    DeadlineError,
    MulmError,
    NotFoundError,
    SchemaError,
    TokenizerMismatchError,
    TrainingDivergedError,
    UnknownNameError,
)
from mulm.eval import suite_data
from mulm.eval.compression import bits_per_byte
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.stored import load_model, store_model
from mulm.runs.identity import evaluate_identity, run_id_of
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_model, tiny_stored_model, tiny_tokenizer


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


@pytest.fixture
def speaker(context: JobContext) -> str:
    """A model with a real tokenizer, which came without a dataset."""
    model = tiny_stored_model(context.store, tiny_tokenizer())
    context.facts.publish("model", "speaker", model.id)
    return "speaker"


def test_suites_are_scored_beside_bits_per_byte(context: JobContext, speaker: str) -> None:
    config = EvaluateConfig(model=speaker, suites=("blimp", "lambada"), limit=3, device="cpu")
    result = evaluate(context, config)
    assert result["model"] == "speaker@1"
    assert {name: scores["n"] for name, scores in result["suites"].items()} == {
        "blimp": 67,  # the sample has a pair of each paradigm
        "lambada": 3,
    }
    acc = result["suites"]["lambada"]["metrics"]["acc"]
    assert set(acc) == {"score", "standard_error", "interval"}
    assert (result["precision"], result["window"], result["skipped"]) == ("fp32", 64, {})
    assert "bits_per_byte" not in result
    events = context.facts.events("run_e")
    told = [e.data for e in events if e.kind == "progress" and e.data["stage"] == "blimp"]
    assert (told[-1]["done"], told[-1]["total"], told[-1]["unit"]) == (134, 134, "questions")
    assert told[-1]["eta_s"] == 0
    stages = {e.data["name"]: e.data["text"] for e in events if e.kind == "stage"}
    assert "67 items of the bundled sample" in stages["blimp"]
    assert "3 questions cut to the window" in stages["lambada"]


def test_all_passes_over_what_cannot_be_had(
    context: JobContext, speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DeadlineError("the hub does not answer")

    monkeypatch.setattr(suite_data, "fetch", away)
    config = EvaluateConfig(model=speaker, suites=("all",), limit=1, device="cpu")
    result = evaluate(context, config)
    assert set(result["suites"]) == {"blimp", "lambada"}
    assert "bits_per_byte" in result["skipped"], "the model names no dataset"
    logs = [e.data["text"] for e in context.facts.events("run_e") if e.kind == "log"]
    assert "piqa is passed over: the hub cannot be reached" in logs
    with pytest.raises(NotFoundError):
        evaluate(context, config.model_copy(update={"suites": ("bits_per_byte", "blimp")}))


def test_a_run_is_what_the_suites_files_hold(
    context: JobContext, speaker: str, tmp_path: Path
) -> None:
    def id_now(path: Path, **values: object) -> str:
        fields = {"model": speaker, "suites": ("piqa",), "data": {"piqa": str(path)}, **values}
        config = EvaluateConfig.model_validate(fields)
        identity = evaluate_identity(config, context.facts, context.store)
        return run_id_of("evaluate", config, identity)

    row = {"goal": "x", "sol1": "a", "sol2": "b", "label": 1}
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for path in (one, other):
        path.write_text(json.dumps(row) + "\n")
    first = id_now(one)
    assert id_now(other) == first, "where a file is makes no difference"
    assert id_now(one, limit=1) != first
    one.write_text(json.dumps(row | {"label": 0}) + "\n")
    assert id_now(one) != first


def test_the_verb(
    home: Home, context: JobContext, speaker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    row = {"goal": "Hello", "sol1": "there", "sol2": "the wizard", "label": 1}
    Path("valid.jsonl").write_text(f"{json.dumps(row)}\n" * 3)

    def verb(*argv: str) -> str:
        done = CliRunner().invoke(cli, ["eval", speaker, *argv], catch_exceptions=False)
        return done.stdout

    said = verb("--suite", "piqa,blimp", "--data", "piqa=valid.jsonl", "--set", "device=cpu")
    assert [line.split()[:2] for line in said.splitlines()] == [
        ["piqa", "acc"],
        ["piqa", "acc_norm"],
        ["piqa", "acc_bytes"],
        ["blimp", "acc"],
    ]
    found = json.loads(verb("--suite", "piqa", "--data", "valid.jsonl", "--limit", "2", "--json"))
    assert (found["suites"]["piqa"]["n"], found["suites"]["piqa"]["origin"]) == (2, "file")


@pytest.mark.parametrize(
    ("argv", "error", "told"),
    [
        (["--suite", "blmp"], UnknownNameError, "'blimp'"),
        (["--suite", "blimp,piqa", "--data", "x.jsonl"], ConfigError, "SUITE=FILE"),
        (["--data", "x.jsonl"], ConfigError, "SUITE=FILE"),
        (["--suite", "blimp", "--data", "piqa=x.jsonl"], UnknownNameError, "blimp"),
        (["--suite", "piqa", "--data", "x.jsonl"], NotFoundError, "x.jsonl"),
        (["--suite", "piqa", "--data", "bad.jsonl"], SchemaError, "'bad.jsonl', row 1"),
        (["--suite", "blimp", "--set", "seq_len=65"], ConfigError, "65"),
    ],
)
def test_the_verb_names_mistakes(
    home: Home,
    context: JobContext,
    speaker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    error: type[MulmError],
    told: str,
) -> None:
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text("{}\n")
    with pytest.raises(error) as caught:
        CliRunner().invoke(cli, ["eval", speaker, *argv], catch_exceptions=False)
    assert told in f"{caught.value.message} {caught.value.hint}"
