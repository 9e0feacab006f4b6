"""What a config leaves open follows from sizes, by rules that give a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mulm.model.presets import PRESETS, preset
from mulm.train.config import ScheduleConfig
from mulm.train.dial import RULES, Known, Scale, choose

DECAY = {"schedule.decay": 0.6}
DEMO = Scale(
    n_parameters=2_400_000, d_model=192, max_seq_len=512, train_tokens=750_000, n_pairs=224,
    stage="pretraining", is_muon=True,
)  # fmt: skip


def values(scale: Scale, given: Known | None = None) -> dict[str, float]:
    return {key: choice.value for key, choice in choose(scale, DECAY | (given or {})).items()}


def scale_of(name: str) -> Scale:
    shape = preset(name, 4096 if name == "demo" else 32768)
    return replace(
        DEMO, n_parameters=shape.n_parameters, d_model=shape.d_model,
        max_seq_len=shape.max_seq_len, train_tokens=10**11,
    )  # fmt: skip


def test_the_demo_is_as_it_was_measured() -> None:
    chosen = values(DEMO)
    assert chosen["seq_len"] == 256
    assert chosen["batch_tokens"] == 2048
    assert (chosen["optimizer.matrix_lr"], chosen["optimizer.embedding_lr"]) == (0.02, 0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_has_values_that_fit_each_other(name: str) -> None:
    scale = scale_of(name)
    chosen = values(scale)
    assert set(chosen) == set(RULES)
    assert chosen["batch_tokens"] % chosen["seq_len"] == 0
    assert chosen["seq_len"] <= scale.max_seq_len
    assert chosen["batch_tokens"] * chosen["steps"] == pytest.approx(
        20 * scale.n_parameters, rel=0.01
    )
    assert 0 < chosen["schedule.warmup"] <= 1 - DECAY["schedule.decay"]


def test_batches_grow_and_rates_of_embeddings_fall_with_size() -> None:
    chosen = [values(scale_of(name)) for name in PRESETS]
    batches = [size["batch_tokens"] for size in chosen]
    rates = [size["optimizer.embedding_lr"] for size in chosen]
    assert batches == sorted(batches)
    assert rates == sorted(rates, reverse=True)
    assert (batches[0], rates[0]) != (batches[-1], rates[-1])
    assert {size["optimizer.matrix_lr"] for size in chosen} == {0.02}


def test_a_small_dataset_is_read_four_times() -> None:
    chosen = choose(DEMO, DECAY)
    n_tokens = chosen["steps"].value * chosen["batch_tokens"].value
    assert n_tokens == pytest.approx(4 * 750_000, rel=0.01)
    assert "4 readings of 750,000 tokens" in chosen["steps"].reason


def test_what_is_given_stays_and_the_rest_goes_by_it() -> None:
    given = {"batch_tokens": 4096, "optimizer.matrix_lr": 0.5}
    chosen = choose(DEMO, DECAY | given)
    assert not given.keys() & chosen.keys()
    assert chosen["steps"].value == round(4 * 750_000 / 4096)


def test_a_model_that_goes_on_keeps_what_it_knows() -> None:
    fresh, tuned = values(DEMO), values(replace(DEMO, stage="tuning"))
    preferred = values(replace(DEMO, stage="preference"))
    for key in ("optimizer.matrix_lr", "optimizer.embedding_lr"):
        assert fresh[key] > tuned[key] > preferred[key]
    assert tuned["optimizer.weight_decay"] == 0.0
    assert preferred["batch_tokens"] % (2 * preferred["seq_len"]) == 0
    rows = preferred["batch_tokens"] / (2 * preferred["seq_len"])
    assert (preferred["steps"] - 1) * rows < 224 <= preferred["steps"] * rows


@pytest.mark.parametrize(
    ("change", "seq_len"),
    [
        ({"packed_seq_len": 100}, 100),
        ({"max_seq_len": 64}, 64),
        ({"max_seq_len": 8192, "n_parameters": 10**8}, 2048),
        ({"max_seq_len": 1024, "n_parameters": 10**8}, 1024),
    ],
)
def test_rows_are_as_long_as_they_may_be(change: dict[str, Any], seq_len: int) -> None:
    assert values(replace(DEMO, **change))["seq_len"] == seq_len


def test_a_short_run_warms_up_for_as_long_as_its_schedule_allows() -> None:
    assert values(DEMO, {"steps": 2000})["schedule.warmup"] == 0.01
    assert values(DEMO, {"steps": 400})["schedule.warmup"] == 0.05
    assert values(DEMO, {"steps": 10})["schedule.warmup"] == 0.1
    assert values(DEMO, {"steps": 10, "schedule.decay": 1.0})["schedule.warmup"] == 0.0


@pytest.mark.parametrize("decay", [0.9, 0.90003, 0.9475, 0.9944, 0.99444])
def test_warm_up_and_decay_never_exceed_the_run(decay: float) -> None:
    warmup = values(DEMO, {"steps": 10, "schedule.decay": decay})["schedule.warmup"]
    assert ScheduleConfig(warmup=warmup, decay=decay).warmup == warmup


def test_weights_decay_in_long_runs_only() -> None:
    assert values(DEMO)["optimizer.weight_decay"] == 0.0
    decays = [values(scale_of(name))["optimizer.weight_decay"] for name in PRESETS]
    assert decays[0] == max(decays)
    assert 0 < decays[-1] < decays[0] <= 0.1


def test_adamw_follows_the_published_law() -> None:
    chosen = values(replace(DEMO, is_muon=False))
    expected = 1.79 * 2_400_000**-0.713 * 3_000_000**0.307
    assert chosen["optimizer.embedding_lr"] == pytest.approx(expected, rel=0.05)
