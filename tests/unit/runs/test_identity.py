"""What a run is beside its config: another dataset or another training loop is another run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mulm.config import parse_config
from mulm.data.recipe import Recipe
from mulm.ledger import Ledger
from mulm.runs import identity
from mulm.runs.identity import pinned, run_id_of, train_identity
from mulm.store import Store
from mulm.testing import tiny_dataset
from mulm.train.config import TrainConfig

CONFIG = TrainConfig(name="tiny", dataset="tiny")


def test_a_nested_reference_is_pinned_too(tmp_path: Path) -> None:
    values = {"name": "a", "sources": [{"path": "x"}]}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.publish("tokenizer", "words", "tok_1")
        recipe = parse_config(Recipe, values | {"tokenizer": {"ref": "words"}})
        assert pinned(recipe, ledger).tokenizer.ref == "words@1"
        assert parse_config(Recipe, pinned(recipe, ledger).model_dump()) == pinned(recipe, ledger)
        plain = parse_config(Recipe, values)
        assert pinned(plain, ledger) == plain


def test_a_training_run_is_its_dataset_and_its_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ledger = Store(tmp_path / "store"), Ledger(tmp_path / "ledger.sqlite")

    def id_now(config: TrainConfig = CONFIG) -> str:
        return run_id_of("train", config, train_identity(config, ledger, store))

    ledger.publish("dataset", "tiny", tiny_dataset(store).id)
    first = id_now()
    assert id_now(CONFIG.model_copy(update={"workers": 2, "log_every": 1})) == first
    assert id_now(CONFIG.model_copy(update={"precision": "fp32"})) != first
    monkeypatch.setattr(identity, "TRAIN_VERSION", identity.TRAIN_VERSION + 1)
    second = id_now()
    assert second != first
    assert pinned(CONFIG, ledger) == CONFIG.model_copy(update={"dataset": "tiny@1"})
    ledger.set_alias("dataset", "tiny", "good", 1)
    by_alias = CONFIG.model_copy(update={"dataset": "tiny@good"})
    assert pinned(by_alias, ledger) == pinned(pinned(CONFIG, ledger), ledger)
    ledger.publish("dataset", "tiny", tiny_dataset(store, n_train=500).id)
    assert pinned(CONFIG, ledger).dataset == "tiny@2"
    assert pinned(by_alias, ledger).dataset == "tiny@1"
    assert id_now() not in {first, second}
    ledger.close()
