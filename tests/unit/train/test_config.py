"""Mistakes in a training config are said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.config import load_config, parse_config
from mulm.errors import ConfigError, DeviceError, UnknownNameError
from mulm.train.config import (
    DilocoConfig,
    LoraConfig,
    LowRankConfig,
    OptimizerConfig,
    PreferenceConfig,
    ScheduleConfig,
    TrainConfig,
)
from mulm.train.device import choose_device, choose_precision
from mulm.train.samples_config import SamplesConfig
from mulm.train.schedule import lr_scale
from mulm.train.settled import SettledOptimizer, SettledSchedule

SCHEMAS = (
    TrainConfig,
    DilocoConfig,
    LowRankConfig,
    OptimizerConfig,
    ScheduleConfig,
    LoraConfig,
    PreferenceConfig,
    SamplesConfig,
)
EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD = {"name": "demo", "dataset": "sample"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_tokens": 1000, "seq_len": 256},
            "batch_tokens .1000. must be a multiple of seq_len .256., such as",
        ),
        ({"workers": 64, "batch_tokens": 8192, "seq_len": 256}, "64 workers share"),
        ({"workers": 0}, "workers: "),
        ({"name": "No Name"}, "name: 'No Name' is not a valid name"),
        ({"dataset": "a@b@c"}, "dataset: "),
        ({"steps": "many"}, "steps: must be a whole number"),
        ({"optimizer": {"matrix_lr": 0}}, "optimizer.matrix_lr: must be more than 0"),
        (
            {"model": {"max_seq_len": 64}, "seq_len": 256},
            "model.max_seq_len .64. is less than seq_len .256.",
        ),
        ({"model": {"n_heads": "many"}}, "model.n_heads: "),
        ({"model": {"n_heads": 5}}, "model: n_heads .5. must be a multiple"),
        ({"model": {"vocab_size": 9}}, "model.vocab_size is that of the dataset"),
        ({"lora": {}}, "lora changes a model: name it as init_from"),
        ({"init_from": "a", "lora": {"rank": 0}}, "lora.rank"),
        ({"init_from": "a", "lora": {"matrices": []}}, "lora.matrices"),
        ({"init_from": "a", "lora": {"matrices": ["x"]}}, "lora.matrices"),
        ({"z_loss": -1}, "z_loss: "),
        ({"z_loss": 0.1, "teacher": "a"}, "z_loss is for learning from text"),
        ({"export_to": ["mlflw"]}, "export_to.0: "),
        ({"samples": {"prompts": [""]}}, "samples.prompts.0: "),
        ({"samples": {"max_tokens": 0}}, "samples.max_tokens: "),
        ({"schedule": {"warmup": 0.6, "decay": 0.6}}, "schedule: .*exceed the run"),
        ({"steps": 10**12}, "steps: must be at most 99999999"),
        ({"steps": 10**400}, r"steps: .*0000\.\.\."),
        ({"steps": 1.5}, "steps: must be a whole number"),
        ({"steps": [1]}, r"steps: must be a whole number .given: .1.."),
        ({"steps": True}, "steps: True is no number: write digits"),
        ({"batch_tokens": 1 << 40}, "batch_tokens: must be at most 67108864"),
        ({"seq_len": 1 << 24, "batch_tokens": 1 << 24}, "seq_len: must be at most 1048576"),
        ({"seed": 1 << 63}, "seed: .*less than"),
        ({"micro_batch_rows": 0}, "micro_batch_rows: write auto, or a whole number of rows from 1"),
        ({"micro_batch_rows": 1.5}, "micro_batch_rows: write auto"),
        ({"micro_batch_rows": True}, "micro_batch_rows: write auto"),
        ({"optimizer": {"matrix_lr": 1e9}}, "optimizer.matrix_lr: must be at most 1"),
        ({"optimizer": {"embedding_lr": float("nan")}}, "optimizer.embedding_lr: .*finite"),
        ({"optimizer": {"embedding_lr": float("inf")}}, "optimizer.embedding_lr: .*finite"),
        (
            {"optimizer": {"weight_decay": 50.0, "matrix_lr": 0.02}},
            "times the rate .0.02. is 1 or more",
        ),
        ({"optimizer": 0.1}, "optimizer: "),
        ({"z_loss": 2}, "z_loss: must be at most 1"),
        ({"init_from": "a", "lora": {"rank": 10**9}}, "lora.rank: must be at most 4096"),
        ({"model": {"d_model": 10**30}}, "the model would have .* parameters, the limit is 1e.10"),
        ({"model": {"max_seq_len": 1 << 30}}, "model.max_seq_len .1073741824. is more than"),
        ({"name": "../a"}, "name: '../a' is not a valid name"),
        ({"dataset": f"a@{'9' * 5000}"}, "is neither a version number nor an alias"),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, GOOD | change)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    if path.stem != "sample":  # a recipe
        assert load_config(TrainConfig, path).name.startswith("demo")


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as error:
        parse_config(TrainConfig, GOOD | {"optimizer": {"matrixlr": 1}})
    assert "matrix_lr" in error.value.hint


def test_shape_follows_preset_and_overrides() -> None:
    config = parse_config(TrainConfig, GOOD | {"model": {"n_layers": 2}, "seq_len": 1024})
    shape = config.shape(512)
    assert (shape.n_layers, shape.vocab_size, shape.max_seq_len) == (2, 512, 1024)


def test_unknown_presets_and_fields_are_named_before_anything_starts() -> None:
    with pytest.raises(UnknownNameError, match="dmo") as error:
        load_config(TrainConfig, None, ["name=a", "dataset=b", "preset=dmo"])
    assert "demo" in error.value.hint
    with pytest.raises(UnknownNameError, match=r"model\.n_layer") as error:
        load_config(TrainConfig, None, ["name=a", "dataset=b", "model.n_layer=2"])
    assert "n_layers" in error.value.hint


def test_a_longer_window_raises_an_automatic_limit_only() -> None:
    assert parse_config(TrainConfig, GOOD | {"seq_len": 1024}).shape(512).max_seq_len == 1024
    chosen = {"seq_len": 16, "model": {"max_seq_len": 64}}
    assert parse_config(TrainConfig, GOOD | chosen).shape(512).max_seq_len == 64


def test_the_rate_that_stands_for_the_run() -> None:
    rates = {"matrix_lr": 0.03, "embedding_lr": 0.002, "weight_decay": 0.0}
    assert SettledOptimizer.model_validate(rates).lr == 0.03
    assert SettledOptimizer.model_validate(rates | {"kind": "adamw"}).lr == 0.002


def test_fields_are_frozen() -> None:
    """They are keys of people's files, of `--set` and of the HTTP body."""
    assert {schema: sorted(schema.model_fields) for schema in SCHEMAS} == {
        TrainConfig: [
            "activation_checkpointing", "attention", "balance", "batch_tokens",
            "checkpoint_every", "compile", "dataset", "device", "diloco", "documents",
            "export_to", "init_from", "keep_best", "keep_checkpoints", "log_every",
            "lora", "lowrank", "micro_batch_rows", "model", "name", "offload", "optimizer",
            "precision", "preference", "preset", "samples", "schedule", "seed",
            "seq_len", "shard", "skip_spikes", "steps", "sync", "teacher", "validate_every",
            "wire_dtype", "workers", "z_loss",
        ],
        DilocoConfig: [
            "fragments", "grace_s", "outer", "outer_lr", "outer_momentum", "overlap", "quorum",
            "round_s", "wire",
        ],
        LowRankConfig: ["rank"],
        OptimizerConfig: [
            "cautious_decay", "embedding_lr", "kind", "matrix_lr", "max_grad_norm",
            "state_dtype", "weight_decay",
        ],
        ScheduleConfig: ["decay", "warmup"],
        LoraConfig: ["alpha", "matrices", "rank"],
        PreferenceConfig: ["beta", "label_smoothing", "length_normalised"],
        SamplesConfig: ["every", "max_tokens", "prompts", "temperature"],
    }  # fmt: skip


def test_a_pair_is_a_row() -> None:
    values = {"init_from": "a", "batch_tokens": 4096, "seq_len": 256}
    assert parse_config(TrainConfig, GOOD | values).n_rows == 16
    assert parse_config(TrainConfig, GOOD | values | {"preference": {}}).n_rows == 8


def test_what_a_resume_may_change_is_frozen() -> None:
    assert sorted(TrainConfig.NOT_IDENTITY) == [
        "activation_checkpointing", "attention", "balance", "checkpoint_every", "compile",
        "device", "export_to", "keep_best", "keep_checkpoints", "log_every",
        "micro_batch_rows", "offload", "samples", "shard", "validate_every", "workers",
    ]  # fmt: skip
    assert set(TrainConfig.model_fields) > TrainConfig.NOT_IDENTITY


def test_learning_rate_rises_stays_and_falls() -> None:
    schedule = SettledSchedule(warmup=0.1, decay=0.2)
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
