"""Fine-tuning as one run: conversations to a model, the same on every way there."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.progress import Progress
from jobs.work_here import work_here
from mulm.config import parse_config
from mulm.data.corpus import Corpus
from mulm.errors import ConflictError, DataError, StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.records import Version
from mulm.runs.identity import fine_tune_identity, pinned, run_id_of
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer
from mulm.train.fine_tune import FineTuneConfig, tokenizer_of

RUN = "run_" + "f" * 12


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home.store)


@pytest.fixture
def facts(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        yield ledger


@pytest.fixture
def base(store: Store, facts: Ledger) -> Manifest:
    """`tiny@1` with its tokenizer `words@1`."""
    tokenizer = tiny_tokenizer()
    own = Manifest(
        kind="tokenizer", code_version="0", config={},
        tokenizer_fingerprint=tokenizer.fingerprint, counts={"vocab_size": tokenizer.vocab_size},
        blobs=(store.put("tokenizer.json", tokenizer.to_bytes()),),
    )  # fmt: skip
    store.save(own)
    facts.publish("tokenizer", "words", own.id)
    model = tiny_stored_model(store, tokenizer)
    model = model.model_copy(update={"parents": {"tokenizer": own.id}})
    store.save(model)
    facts.publish("model", "tiny", model.id)
    return model


def chats(seed: int = 0, n: int = 40) -> bytes:
    rng = random.Random(seed)
    return "\n".join(
        json.dumps({"messages": [
            {"role": "user", "content": f"What is {(a := rng.randint(0, 99))} and 1?"},
            {"role": "assistant", "content": f"{a} and 1 is {a + 1}, said {rng.random()}."},
        ]}) for _ in range(n)
    ).encode()  # fmt: skip


def upload(store: Store, facts: Ledger, content: bytes, number: int = 1) -> str:
    blob = store.put("x", content)
    name = f"chats{number}.jsonl"
    facts.add_file(f"file_{number}", name, "fine-tune", blob.size_bytes, blob.sha256)
    return f"file_{number}"


@pytest.fixture
def values(store: Store, facts: Ledger, base: Manifest) -> dict[str, Any]:
    file_id = upload(store, facts, chats())
    return {"name": "tiny-ft", "model": "tiny", "training_file": file_id, "n_epochs": 1}


def run(home: Home, facts: Ledger, values: dict[str, Any], run_id: str = RUN) -> dict[str, Any]:
    config = pinned(parse_config(FineTuneConfig, values), facts)
    return work_here("fine_tune", config, run_id, home, Progress(io.StringIO()))


def trained(store: Store, result: dict[str, Any]) -> dict[str, Any]:
    return store.load(result["model_id"]).config


def test_from_conversations_to_a_model(home, store, facts, base, values):
    result = run(home, facts, values)
    model, dataset = store.load(result["model_id"]), store.load(result["dataset_id"])
    assert (result["model"], result["dataset"]) == ("tiny-ft@1", "tiny-ft@1")
    assert model.parents["init_from"] == base.id
    assert model.parents["dataset"] == dataset.id
    assert model.tokenizer_fingerprint == base.tokenizer_fingerprint
    config = trained(store, result)
    assert config["documents"] == "apart"
    assert result["trained_tokens"] == config["steps"] * config["batch_tokens"]
    assert result["steps"] == config["steps"]
    assert run(home, facts, values) == result, "it is not done again"
    kinds = {event.kind for event in facts.events(RUN)}
    assert {"stage", "metric", "checkpoint"} <= kinds


def test_what_is_chosen_holds(home, store, facts, values):
    plain = trained(store, run(home, facts, values | {"batch_size": 2}, "run_" + "1" * 12))
    tuned = trained(store, run(
        home, facts,
        values | {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 0.5, "seed": 7},
        "run_" + "2" * 12,
    ))  # fmt: skip
    assert plain["batch_tokens"] == tuned["batch_tokens"] == 2 * plain["seq_len"]
    assert tuned["steps"] == pytest.approx(3 * plain["steps"], abs=1)
    for rate in ("matrix_lr", "embedding_lr"):
        assert tuned["optimizer"][rate] == pytest.approx(0.5 * plain["optimizer"][rate])
    assert (plain["seed"], tuned["seed"]) == (0, 7)
    adapted = run(home, facts, values | {"lora": True}, "run_" + "3" * 12)
    assert "adapter.safetensors" in [b.name for b in store.load(adapted["model_id"]).blobs]


def test_a_validation_file_is_held_out_and_nothing_else(home, store, facts, values):
    first = chats(1, 5).splitlines()
    validation = b"\n".join([*first, chats().splitlines()[0]])  # the last one is trained on
    file_id = upload(store, facts, validation, 2)
    result = run(home, facts, values | {"validation_file": file_id})
    documents = store.load(store.load(result["dataset_id"]).parents["documents"])
    corpus = Corpus.of(store, documents)
    found = [
        (chunk.source, chunk.decisions.counts()) for chunk in corpus.chunks
    ]  # fmt: skip
    assert found == [("training", {"train": 40}), ("validation", {"validation": 5, "duplicate": 1})]


def test_nothing_left_to_validate_is_told(home, store, facts, values):
    file_id = upload(store, facts, chats(), 2)
    with pytest.raises(DataError, match="no validation document is left"):
        run(home, facts, values | {"validation_file": file_id})


def test_stopped_in_training_it_goes_on(home, store, facts, values, monkeypatch):
    from mulm.train.objectives.pretraining import Pretraining

    whole = run(home, facts, values | {"name": "whole"}, "run_" + "1" * 12)
    loss, calls = Pretraining.loss, []

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    monkeypatch.setattr(Pretraining, "loss", interrupted)
    with pytest.raises((KeyboardInterrupt, StoppedError)):
        run(home, facts, values | {"n_epochs": 1})
    monkeypatch.setattr(Pretraining, "loss", loss)
    facts.remove_file("file_1")
    config = parse_config(FineTuneConfig, facts.run(RUN).config)
    again = work_here("fine_tune", pinned(config, facts), RUN, home, Progress(io.StringIO()))
    assert store.load(again["model_id"]).blobs == store.load(whole["model_id"]).blobs


def test_the_same_bytes_are_the_same_run(store, facts, values):
    def run_id(**changes: Any) -> str:
        config = pinned(parse_config(FineTuneConfig, values | changes), facts)
        return run_id_of("fine_tune", config, fine_tune_identity(config, facts, store))

    blob = facts.file("file_1")
    facts.add_file("file_9", blob.name, "fine-tune", blob.size_bytes, blob.sha256)
    assert run_id() == run_id(training_file="file_9") == run_id(metadata={"a": "b"})
    others = [
        run_id(seed=1),
        run_id(n_epochs=2),
        run_id(validation_file="file_1"),
        run_id(lora=True),
    ]
    assert len({run_id(), *others}) == 5


def test_a_model_whose_tokenizer_has_no_name(store, facts):
    model = tiny_stored_model(store, tiny_tokenizer())
    with pytest.raises(ConflictError, match="tokenizer"):
        tokenizer_of(model, store, facts)


def test_the_tokenizer_is_found_through_generations(store, facts, base):
    child = base.model_copy(update={"parents": {"init_from": base.id}, "config": {"n": 1}})
    store.save(child)
    found = tokenizer_of(child, store, facts)
    assert isinstance(found, Version)
    assert found.ref == "words@1"
