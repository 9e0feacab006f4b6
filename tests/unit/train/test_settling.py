"""A config is settled the same way each time, and what is settled stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.config import parse_config
from mulm.errors import ConfigError
from mulm.manifest import Manifest
from mulm.model.stored import store_model
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.dial import RULES
from mulm.train.loop import train
from mulm.train.settled import SettledConfig
from mulm.train.settling import settle

VALUES: dict[str, Any] = {"name": "a", "dataset": "tiny", "model": TINY_SHAPE}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def dataset(store: Store) -> Manifest:
    return tiny_dataset(store)


def config_of(**changes: Any) -> TrainConfig:
    return parse_config(TrainConfig, VALUES | changes)


def test_nothing_stays_automatic(store: Store, dataset: Manifest) -> None:
    config, reasons = settle(config_of(), store, dataset, {})
    for key, reason in zip(RULES, reasons, strict=True):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        assert value != "auto"
        assert reason.startswith(f"{key} {value:,} (")


def test_written_out_it_is_the_same_as_left_away(store: Store, dataset: Manifest) -> None:
    auto = {"steps": "auto", "batch_tokens": "auto", "optimizer": {"matrix_lr": "auto"}}
    assert config_of(**auto) == config_of()
    assert settle(config_of(**auto), store, dataset, {}) == settle(config_of(), store, dataset, {})


def test_what_is_settled_stays(store: Store, dataset: Manifest) -> None:
    config, _ = settle(config_of(seq_len=16), store, dataset, {})
    assert config.seq_len == 16
    again = parse_config(SettledConfig, config.model_dump(mode="json"))
    assert settle(again, store, dataset, {}) == (config, ())


def test_it_goes_by_the_model_that_training_begins_with(store: Store, dataset: Manifest) -> None:
    wide = TINY.model_copy(update={"d_model": 512})
    made = store_model(store, tiny_model(config=wide), b"{}", "0" * 24, config={}, parents={})
    begun = parse_config(TrainConfig, {"name": "a", "dataset": "tiny", "init_from": "wide"})
    config, reasons = settle(begun, store, dataset, {"init_from": made})
    assert config.optimizer.embedding_lr == 0.00075
    assert any("falls with the width 512, 0.1 of it" in reason for reason in reasons)


def test_numbers_do_not_depend_on_workers_and_must_suffice_for_them(
    store: Store, dataset: Manifest
) -> None:
    one, two = (settle(config_of(workers=n, seq_len=16), store, dataset, {})[0] for n in (1, 2))
    assert one.model_dump() | {"workers": 2} == two.model_dump()
    with pytest.raises(ConfigError, match="workers share"):
        settle(config_of(workers=64), store, dataset, {})


def test_a_given_batch_must_suit_the_settled_rows(store: Store, dataset: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"must be a multiple of seq_len \(64\)"):
        settle(config_of(batch_tokens=100), store, dataset, {})


def test_the_loop_settles_and_stores_what_it_did(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    told: list[str] = []

    def hear(kind: str, data: Any) -> None:
        if kind == "log":
            told.append(data["text"])

    context = LocalContext(
        store, dataset, tmp_path / "run", torch.device("cpu"), hear, lambda: False
    )
    config = config_of(precision="fp32", steps=2)
    settled, reasons = settle(config, store, dataset, {})
    made = store.load(train(config, context).model_id)
    assert made.config == settled.model_dump(mode="json")
    assert set(reasons) <= set(told)
