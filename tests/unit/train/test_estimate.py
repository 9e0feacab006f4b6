"""Time, energy and cost: computed as said, and never more than is known."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from mulm.errors import ConfigError
from mulm.testing import TINY, TINY_SHAPE, settled_optimizer
from mulm.train import estimate as estimates
from mulm.train.estimate import (
    Speed,
    Work,
    describe_estimate,
    device_watts,
    estimate,
    measured_speed,
)
from mulm.train.flops import flops_per_token
from mulm.train.settled import SettledConfig

SPEED = Speed(row_s=0.5, update_s=2.0, found_by="said by a test")


def work(device: str = "cpu", **changes: Any) -> Work:
    shape = {} if changes.get("init_from") else {"model": TINY_SHAPE}
    values = {"name": "a", "dataset": "b", "seq_len": 16, "batch_tokens": 128, "steps": 10, **shape}
    values |= {"optimizer": settled_optimizer().model_dump(), "schedule": {"warmup": 0.0}}
    config = SettledConfig.model_validate(values | changes)
    return Work(config, TINY, device, "fp32", rows=2)


def lines(told: Any) -> str:
    return "\n".join(describe_estimate(told))


def test_a_step_is_its_rows_and_an_update() -> None:
    told = estimate(work(), watts=100.0, price_per_kwh=0.5, measure=lambda _: SPEED)
    assert told.seconds == 10 * (8 * 0.5 + 2.0)
    assert told.tokens_per_s == 10 * 128 / told.seconds
    assert told.kwh == pytest.approx(100 * 60 / 3.6e6)
    assert told.cost == pytest.approx(told.kwh * 0.5)
    assert "time: about 60.0 seconds at 21 tokens/s (said by a test" in lines(told)
    assert "0.00167 kWh, 0.00 (100 W, as --watts says)" in lines(told)


def test_workers_share_a_cpu_and_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "device_watts", lambda _: 300.0)
    shared = estimate(work(workers=4), measure=lambda _: SPEED)
    assert shared.seconds == 60.0
    assert "4 workers on the cores of this machine" in shared.time_reason
    apart = estimate(work("cuda", workers=4), measure=lambda _: SPEED)
    assert apart.seconds == 10 * (2 * 0.5 + 2.0)
    assert "without what they send each other" in apart.time_reason
    assert apart.kwh == pytest.approx(4 * 300 * 30 / 3.6e6)
    assert "--price-per-kwh tells the cost" in lines(apart)
    assert "4 x 300 W, the GPU's power limit" in lines(apart)


def test_an_estimate_of_a_compiled_run_says_that_it_is_of_a_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "g++")
    for is_compiled in (True, False):
        told = estimate(work(compile=is_compiled), measure=lambda _: SPEED)
        assert ("the run is compiled and takes less" in told.time_reason) == is_compiled


def test_what_nobody_knows_is_not_pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    told = estimate(work(), price_per_kwh=0.3, measure=lambda _: SPEED)
    assert (told.kwh, told.cost) == (None, None)
    assert "cost: not known: nobody here says what the cpu draws" in lines(told)
    told = estimate(work(), is_measured=False, watts=100.0)
    assert (told.seconds, told.kwh) == (None, None)
    assert "time: not known: nothing was measured" in lines(told)
    assert "cost: not known: the time is not known" in lines(told)
    for stage in ({"preference": {}}, {"lora": {}}):
        told = estimate(work(init_from="a", **stage), measure=lambda _: SPEED)
        assert told.seconds is None

    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "check_output", absent)
    assert device_watts("cuda") is None
    assert device_watts("cpu") is None


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_senseless_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="--watts"):
        estimate(work(), watts=bad, measure=lambda _: SPEED)
    with pytest.raises(ConfigError, match="--price-per-kwh"):
        estimate(work(), price_per_kwh=bad, measure=lambda _: SPEED)


def test_a_small_model_is_measured_whole_and_quickly() -> None:
    started_s = time.monotonic()
    speed = measured_speed(work())
    assert time.monotonic() - started_s < 5
    assert speed.row_s > 0
    assert speed.update_s > 0
    assert speed.found_by == "measured here: 2 x 16 tokens"


def test_of_a_large_model_one_block_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MEASURED_PARAMETERS", 0)
    speed = measured_speed(work())
    assert speed.found_by == "measured here: 1 of 2 blocks, 2 x 16 tokens"


def test_what_is_slow_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each act takes ten seconds of this clock: one row and one update of one block are all."""
    times = iter(range(0, 40, 10))
    speed = measured_speed(work(), now_s=lambda: float(next(times)))
    one_block = TINY.model_copy(update={"n_layers": 1})
    assert speed.row_s == pytest.approx(
        10 * flops_per_token(TINY, 16) / flops_per_token(one_block, 16)
    )
    assert speed.update_s == pytest.approx(10 * TINY.n_parameters / one_block.n_parameters)
    assert speed.found_by == "measured here: 1 of 2 blocks, 1 x 16 tokens"
