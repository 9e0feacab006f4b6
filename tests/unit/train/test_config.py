"""Mistakes in a training config are said in words."""

from __future__ import annotations

from typing import Any

import pytest

from mulm.config import parse_config
from mulm.errors import ConfigError, DeviceError, UnknownNameError
from mulm.train.config import ScheduleConfig, TrainConfig
from mulm.train.device import choose_device, choose_precision
from mulm.train.schedule import lr_scale

GOOD = {"name": "demo", "dataset": "sample"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_tokens": 1000},
            "batch_tokens .1000. must be a multiple of seq_len .256., such as",
        ),
        ({"workers": 64}, "64 workers share"),
        ({"workers": 0}, "workers: "),
        ({"name": "No Name"}, "name: 'No Name' is not a valid name"),
        ({"dataset": "a@b@c"}, "dataset: "),
        ({"steps": "many"}, "steps: "),
        ({"schedule": {"warmup": 0.6, "decay": 0.6}}, "schedule: .*exceed the run"),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, GOOD | change)


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as error:
        parse_config(TrainConfig, GOOD | {"optimizer": {"matrixlr": 1}})
    assert "matrix_lr" in error.value.hint


def test_shape_follows_preset_and_overrides() -> None:
    config = parse_config(TrainConfig, GOOD | {"model": {"n_layers": 2}, "seq_len": 1024})
    shape = config.shape(512)
    assert (shape.n_layers, shape.vocab_size, shape.max_seq_len) == (2, 512, 1024)
    with pytest.raises(UnknownNameError) as error:
        parse_config(TrainConfig, GOOD | {"model": {"n_layer": 2}}).shape(512)
    assert "n_layers" in error.value.hint


def test_learning_rate_rises_stays_and_falls() -> None:
    schedule = ScheduleConfig(warmup=0.1, decay=0.2)
    scales = [lr_scale(step, 100, schedule) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9:81] == [1.0] * 72
    assert scales[99] == pytest.approx(0.05)
    assert min(scales) > 0


def test_devices_are_never_replaced_silently() -> None:
    assert choose_device("auto", has_cuda=False)[0] == "cpu"
    assert choose_device("auto", has_cuda=True)[0] == "cuda"
    assert choose_device("cpu", has_cuda=True)[0] == "cpu"
    with pytest.raises(DeviceError):
        choose_device("cuda", has_cuda=False)


def test_precision_is_chosen_with_a_reason() -> None:
    assert choose_precision("fp32", "cpu") == ("fp32", "asked for")
    chosen, reason = choose_precision("auto", "cpu")
    assert chosen in {"fp32", "bf16"}
    assert "CPU" in reason
