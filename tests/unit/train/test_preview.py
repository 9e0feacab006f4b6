"""A dry run tells what the run does, refuses what it refuses, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.config import parse_config
from mulm.errors import DataError, DeviceError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model import compiled
from mulm.model.lora import adapt
from mulm.model.stored import store_model
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.memory import step_memory
from mulm.train.optimizer_memory import n_adapter_parameters
from mulm.train.placement import EVERYTHING_HERE, step_choices
from mulm.train.preview import Preview, describe, preview, work_of

VALUES: dict[str, Any] = {
    "name": "tiny", "dataset": "tiny", "steps": 10, "batch_tokens": 128, "seq_len": 16,
    "precision": "fp32", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def facts(home: Home) -> Iterator[Ledger]:
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(store).id)
        made = store_model(store, tiny_model(), b"{}", "0" * 24, config={}, parents={})
        ledger.publish("model", "base", made.id)
        yield ledger


def plan_of(home: Home, facts: Ledger, **changes: Any) -> Preview:
    return preview(parse_config(TrainConfig, VALUES | changes), Store(home.store), facts)


def test_it_tells_what_the_run_does(home: Home, facts: Ledger) -> None:
    plan = plan_of(home, facts, model=TINY_SHAPE, micro_batch_rows=2)
    assert (plan.parameters, plan.learned) == (TINY.n_parameters, TINY.n_parameters)
    assert (plan.device, plan.precision, plan.rows_at_once) == ("cpu", "fp32", 2)
    assert (plan.tokens, plan.dataset_tokens) == (1280, 2000)
    config = parse_config(TrainConfig, VALUES | {"model": TINY_SHAPE, "attention": "plain"})
    expected = step_memory(TINY, step_choices(config, "cpu", "fp32", 2, EVERYTHING_HERE)).peak_bytes
    assert plan.memory_bytes == expected
    text = "\n".join(describe(plan))
    assert f"{TINY.n_parameters:,} parameters" in text
    assert "1,280 in 10 steps, 0.6 times the dataset's" in text
    assert work_of(plan).shape.n_parameters == TINY.n_parameters


def test_it_tells_what_was_left_open_and_why(home: Home, facts: Ledger) -> None:
    text = "\n".join(describe(plan_of(home, facts, model=TINY_SHAPE)))
    assert "auto: optimizer.matrix_lr 0.02 (Muon's rate for every width)" in text
    assert "auto: steps" not in text  # given
    open_text = "\n".join(describe(plan_of(home, facts, model=TINY_SHAPE, steps="auto")))
    assert "auto: steps 62 (4 readings of 2,000 tokens)" in open_text


def test_adapters_learn_few_numbers_in_little_memory(home: Home, facts: Ledger) -> None:
    lora = {"rank": 2}
    plan = plan_of(home, facts, init_from="base", lora=lora)
    model = adapt(
        tiny_model(), rank=2, scale=1.0, matrices={"q", "k", "v", "out", "gate", "up", "down"},
        generator=torch.Generator(),
    )  # fmt: skip
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = parse_config(TrainConfig, VALUES | {"init_from": "base", "lora": lora})
    assert plan.learned == learned == n_adapter_parameters(TINY, config.lora)
    assert plan.parameters == TINY.n_parameters
    assert plan.memory_bytes < plan_of(home, facts, init_from="base").memory_bytes
    assert "of adapters learn" in "\n".join(describe(plan))


def test_models_that_are_only_read_take_memory(home: Home, facts: Ledger) -> None:
    alone = plan_of(home, facts, model=TINY_SHAPE)
    taught = plan_of(home, facts, model=TINY_SHAPE, teacher="base")
    assert taught.memory_bytes - alone.memory_bytes == 4 * TINY.n_parameters
    assert set(taught.models) == {"teacher"}


def test_it_refuses_what_the_run_refuses(
    home: Home, facts: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError):
        plan_of(home, facts, init_from="nobody")
    with pytest.raises(DataError, match="could be pairs"):
        plan_of(home, facts, init_from="base", preference={})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError):
        plan_of(home, facts, model=TINY_SHAPE, device="cuda")


def test_it_leaves_nothing_behind(home: Home, facts: Ledger) -> None:
    def files() -> set[Path]:
        return {path for path in home.root.rglob("*") if path.is_file()}

    before = files()
    plan_of(home, facts, model=TINY_SHAPE)
    assert files() == before


def test_what_cannot_be_compiled_is_refused(
    home: Home, facts: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    assert plan_of(home, facts, model=TINY_SHAPE).device == "cpu"
    with pytest.raises(DeviceError, match="compile: true was asked for"):
        plan_of(home, facts, model=TINY_SHAPE, compile=True)
