"""The loop: learns, resumes bit for bit, stops and refuses as promised."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.errors import (
    ConfigError,
    CorruptError,
    DeviceError,
    NoSpaceError,
    StoppedError,
    TokenizerMismatchError,
    TrainingDivergedError,
)
from mulm.manifest import Manifest
from mulm.model.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from mulm.model.lora import is_adapter
from mulm.model.stored import load_adapter, load_model, store_model
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train import checkpoint_writer, device, pieces, spikes
from mulm.train import state as states
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.metrics import OF_THE_MACHINE
from mulm.train.muon import Muon
from mulm.train.objectives import microlm
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.result import TrainResult

Events = list[tuple[str, dict[str, Any]]]


class Killed(BaseException):
    """What SIGKILL is to a process: nothing of ours handles it."""


def make_config(**changes: Any) -> TrainConfig:
    shape = {} if changes.get("init_from") else {"model": TINY_SHAPE}
    values = {
        "name": "tiny", "dataset": "tiny", **shape, "steps": 12, "batch_tokens": 128,
        "seq_len": 16, "log_every": 1, "validate_every": 5, "checkpoint_every": 4,
        "precision": "fp32",
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def dataset(store: Store) -> Manifest:
    return tiny_dataset(store)


def run(
    config: TrainConfig,
    store: Store,
    dataset: Manifest,
    folder: Path,
    *,
    kill_at: int | None = None,
    stop_at: int | None = None,
) -> tuple[TrainResult | None, Events]:
    events: Events = []
    asked = 0

    def on_event(kind: str, data: Any) -> None:
        events.append((kind, dict(data)))

    def is_stopping() -> bool:
        nonlocal asked
        asked += 1
        if asked == kill_at:
            raise Killed
        return asked == stop_at

    context = LocalContext(store, dataset, folder, torch.device("cpu"), on_event, is_stopping)
    try:
        return train(config, context), events
    except Killed:
        return None, events


def curve(events: Events) -> dict[int, dict[str, float]]:
    numbers: dict[int, dict[str, float]] = {}
    for kind, data in events:
        if kind == "metric":
            timeless = {k: v for k, v in data.items() if k not in OF_THE_MACHINE}
            numbers.setdefault(data["step"], {}).update(timeless)
    return numbers


def test_learns(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    result, events = run(make_config(steps=60), store, dataset, tmp_path / "run")
    losses = [data["loss"] for kind, data in events if kind == "metric" and "loss" in data]
    assert losses[0] > 4.0
    assert losses[-1] < 2.0
    assert result is not None
    assert result.validation < 3.0


def test_fresh_model_knows_nothing(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    _, events = run(make_config(steps=1), store, dataset, tmp_path / "run")
    assert curve(events)[1]["loss"] == pytest.approx(torch.log(torch.tensor(64.0)).item(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"optimizer": {"kind": kind, "state_dtype": dtype}} for kind in ("muon", "adamw")
     for dtype in ("bf16", "int8")],
)  # fmt: skip
def test_small_states_learn_and_resume_bit_for_bit(
    store: Store, dataset: Manifest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shape = {"model": TINY_SHAPE | {"d_model": 64, "d_ff": 128}}  # large enough for 8-bit codes
    plain = {"optimizer": changes["optimizer"] | {"state_dtype": "fp32"}}
    exact, _ = run(make_config(steps=40, **shape, **plain), store, dataset, tmp_path / "exact")
    config = make_config(steps=40, **shape, **changes)
    whole, _ = run(config, store, dataset, tmp_path / "whole")
    run(config, store, dataset, tmp_path / "cut", kill_at=19)
    resumed, _ = run(config, store, dataset, tmp_path / "cut")
    assert exact is not None
    assert whole is not None
    assert resumed is not None
    assert resumed.model_id == whole.model_id
    assert whole.model_id != exact.model_id
    assert whole.validation == pytest.approx(exact.validation, rel=0.02)


def test_checkpointed_activations_change_nothing(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    plain, _ = run(make_config(), store, dataset, tmp_path / "plain")
    saving = make_config(activation_checkpointing=True)
    run(make_config(), store, dataset, tmp_path / "saving", kill_at=6)
    resumed, _ = run(saving, store, dataset, tmp_path / "saving")
    assert plain is not None
    assert resumed is not None
    assert resumed.loss == plain.loss
    assert resumed.validation == plain.validation


@pytest.mark.parametrize("changes", [{"micro_batch_rows": 3}, {"attention": "sdpa"}])
def test_how_it_is_computed_changes_rounding_only(
    store: Store, dataset: Manifest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, _ = run(make_config(), store, dataset, tmp_path / "plain")
    other, events = run(make_config(**changes), store, dataset, tmp_path / "other")
    assert plain is not None
    assert other is not None
    assert other.loss == pytest.approx(plain.loss, rel=1e-3)
    rows = changes.get("micro_batch_rows", 256)
    assert any(f"{rows} rows at once" in data.get("text", "") for _, data in events)


def test_products_in_8_bits_learn_as_those_in_16(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match="the cpu here has no 8-bit floats"):
        run(make_config(precision="fp8"), store, dataset, tmp_path / "none")
    monkeypatch.setattr(device, "has_fp8", lambda _: True)
    sixteen, _ = run(make_config(steps=40, precision="bf16"), store, dataset, tmp_path / "16")
    config = make_config(steps=40, precision="fp8")
    whole, _ = run(config, store, dataset, tmp_path / "8")
    run(config, store, dataset, tmp_path / "cut", kill_at=19)
    resumed, _ = run(config, store, dataset, tmp_path / "cut")
    assert sixteen is not None
    assert whole is not None
    assert resumed is not None
    assert whole.validation != sixteen.validation
    assert whole.validation == pytest.approx(sixteen.validation, rel=0.1)
    assert resumed.model_id == whole.model_id


def test_documents_apart_are_another_run(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, _ = run(make_config(), store, dataset, tmp_path / "joined")
    monkeypatch.setattr(microlm, "separator_id", lambda _: 5)
    apart, _ = run(make_config(documents="apart"), store, dataset, tmp_path / "apart")
    assert joined is not None
    assert apart is not None
    assert apart.loss != joined.loss
    with pytest.raises(ConfigError, match="documents"):
        run(make_config(documents="apart"), store, dataset, tmp_path / "joined")


@pytest.mark.parametrize("kill_at", [2, 5, 8, 12])
def test_resumed_equals_uninterrupted_bit_for_bit(
    store: Store, dataset: Manifest, tmp_path: Path, kill_at: int
) -> None:
    config = make_config()
    whole, whole_events = run(config, store, dataset, tmp_path / "whole")
    assert run(config, store, dataset, tmp_path / "cut", kill_at=kill_at)[0] is None
    resumed, resumed_events = run(config, store, dataset, tmp_path / "cut")
    assert whole is not None
    assert resumed is not None
    assert resumed.model_id == whole.model_id
    after = curve(resumed_events)
    assert after == {step: curve(whole_events)[step] for step in after}
    assert min(after) == (kill_at - 1) // 4 * 4 + 1


def test_checkpoints_of_both_ways_are_the_same_bytes(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    config = make_config()
    run(config, store, dataset, tmp_path / "whole")
    run(config, store, dataset, tmp_path / "cut", kill_at=7)
    run(config, store, dataset, tmp_path / "cut")
    ends = [checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("whole", "cut")]
    for file in ("tensors.safetensors", "state.json"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()


def test_validation_and_logging_change_nothing(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    often, _ = run(make_config(validate_every=1), store, dataset, tmp_path / "often")
    rarely, _ = run(make_config(validate_every=99, log_every=99), store, dataset, tmp_path / "no")
    assert often is not None
    assert rarely is not None
    assert often.loss == rarely.loss
    assert often.validation == rarely.validation


def test_finished_run_is_not_repeated(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    first, _ = run(make_config(), store, dataset, tmp_path / "run")
    again, events = run(make_config(), store, dataset, tmp_path / "run")
    assert first is not None
    assert again is not None
    assert again.model_id == first.model_id
    assert again.tokens_per_s is None
    assert not curve(events)


def test_stop_request_keeps_what_is_done(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(StoppedError, match="step 6 of 12"):
        run(config, store, dataset, tmp_path / "cut", stop_at=7)
    assert load_checkpoint(checkpoints(tmp_path / "cut" / "checkpoints")[-1]).step == 6
    resumed, _ = run(config, store, dataset, tmp_path / "cut")
    whole, _ = run(config, store, dataset, tmp_path / "whole")
    assert resumed is not None
    assert whole is not None
    assert resumed.model_id == whole.model_id


def test_keeps_the_last_checkpoints(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    run(make_config(keep_checkpoints=2), store, dataset, tmp_path / "run")
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000008", "step-00000012"]


def test_corrupt_checkpoint_is_refused(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    run(make_config(), store, dataset, tmp_path / "run", kill_at=10)
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1] / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.chmod(0o644)
    newest.write_bytes(content)
    with pytest.raises(CorruptError) as error:
        run(make_config(), store, dataset, tmp_path / "run")
    assert "step-00000004" in error.value.hint


def test_another_configuration_is_refused(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    run(make_config(), store, dataset, tmp_path / "run", kill_at=6)
    with pytest.raises(ConfigError, match="seed"):
        run(make_config(seed=1), store, dataset, tmp_path / "run")


def test_a_checkpoint_of_another_shape_is_refused(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    other = make_config(model=TINY_SHAPE | {"d_ff": 32})
    run(other, store, dataset, tmp_path / "other", kill_at=6)
    with pytest.raises(ConfigError, match="model: the run began with"):
        run(make_config(), store, dataset, tmp_path / "other")
    # The same words may mean another shape to another version of the code.
    saved = load_checkpoint(checkpoints(tmp_path / "other" / "checkpoints")[-1])
    facts = saved.state | {"config": saved.state["config"] | {"model": TINY_SHAPE}}
    save_checkpoint(tmp_path / "forged" / "checkpoints", saved.step, saved.tensors, facts)
    with pytest.raises(CorruptError, match="do not fit their config"):
        run(make_config(), store, dataset, tmp_path / "forged")


def test_a_run_keeps_the_precision_that_it_began_with(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = make_config(precision="auto")
    monkeypatch.setattr(states, "choose_precision", lambda asked, device: ("fp32", "here"))
    run(auto, store, dataset, tmp_path / "run", kill_at=6)
    monkeypatch.setattr(states, "choose_precision", lambda asked, device: ("bf16", "elsewhere"))
    with pytest.raises(ConfigError, match="precision: the run began with 'auto', not 'bf16'"):
        run(make_config(precision="bf16"), store, dataset, tmp_path / "run")
    _, events = run(auto, store, dataset, tmp_path / "run")
    assert any("fp32 (as the run began)" in data.get("text", "") for _, data in events)


def test_another_dataset_is_refused(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    run(make_config(), store, dataset, tmp_path / "run", kill_at=6)
    with pytest.raises(ConfigError, match="dataset"):
        run(make_config(), store, tiny_dataset(store, n_train=1500), tmp_path / "run")


def test_another_tokenizer_is_refused(store: Store, dataset: Manifest, tmp_path: Path) -> None:
    run(make_config(), store, dataset, tmp_path / "run", kill_at=6)
    other = tiny_dataset(store, tokenizer_fingerprint="1" * 24)
    with pytest.raises(TokenizerMismatchError, match="1" * 24):
        run(make_config(), store, other, tmp_path / "run")


def test_one_bad_step_is_skipped(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss(monkeypatch, first=3, last=3)
    result, events = run(make_config(), store, dataset, tmp_path / "run")
    assert result is not None
    assert 3 not in {step for step, numbers in curve(events).items() if "loss" in numbers}
    assert store.load(result.model_id).counts["tokens"] == 11 * 128
    assert any("step 3 skipped" in data.get("text", "") for _, data in events)


def test_a_spike_is_skipped_and_a_resume_skips_it_too(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spikes, "FIRST_STEPS", 4)
    honest = Pretraining.loss

    def spiking(objective: Any, model: Any, batch: Any, dtype: Any) -> SummedLoss:
        loss = honest(objective, model, batch, dtype)
        is_chosen = torch.equal(batch[0], chosen)
        return SummedLoss(loss.total * 9.0, loss.count) if is_chosen else loss

    config = make_config()
    chosen = TokenLoader(store, dataset, seq_len=16).batch(9, config.n_rows)[0]
    monkeypatch.setattr(Pretraining, "loss", spiking)
    whole, events = run(config, store, dataset, tmp_path / "whole")
    assert whole is not None
    texts = [data.get("text", "") for _, data in events]
    (told,) = (text for text in texts if "step 10 skipped" in text)
    assert "far above" in told
    assert 10 not in {step for step, numbers in curve(events).items() if "loss" in numbers}
    assert store.load(whole.model_id).counts["tokens"] == 11 * 128
    run(config, store, dataset, tmp_path / "cut", kill_at=10)
    resumed, _ = run(config, store, dataset, tmp_path / "cut")
    assert resumed is not None
    assert resumed.model_id == whole.model_id
    taken, _ = run(make_config(skip_spikes=False), store, dataset, tmp_path / "taken")
    assert taken is not None
    assert store.load(taken.model_id).counts["tokens"] == 12 * 128


def test_a_step_with_nothing_to_learn_is_passed_over(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, asked = TokenLoader.batch, count(0)

    def masked(*arguments: Any) -> Any:
        x_BT, y_BT = honest(*arguments)
        return x_BT, torch.full_like(y_BT, IGNORED_TARGET) if next(asked) < 7 else y_BT

    monkeypatch.setattr(TokenLoader, "batch", masked)
    result, events = run(make_config(), store, dataset, tmp_path / "run")
    assert result is not None, "seven in a row are no divergence"
    assert sum("no token of it" in data.get("text", "") for _, data in events) == 7
    assert store.load(result.model_id).counts["tokens"] == 5 * 128


def test_a_full_memory_shrinks_the_micro_batch_and_the_run_goes_on(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = run(make_config(), store, dataset, tmp_path / "plain")
    honest = Pretraining._nats
    n_calls = count(1)

    def hungry(objective: Any, model: Any, batch: Any, *more: Any) -> Any:
        if next(n_calls) > 6 and len(batch[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(objective, model, batch, *more)

    monkeypatch.setattr(Pretraining, "_nats", hungry)
    config = make_config(micro_batch_rows=7)
    result, events = run(config, store, dataset, tmp_path / "run")
    assert plain is not None
    assert result is not None
    assert result.loss == pytest.approx(plain.loss, rel=1e-3)
    assert result.validation == pytest.approx(plain.validation, rel=1e-3)
    texts = [data["text"] for kind, data in events if kind == "log"]
    told = [text for text in texts if "out of memory" in text]
    assert told[0].startswith("step 4: out of memory: from now on 4 rows at once")
    assert told[-1].startswith("step 4: out of memory: from now on 2 rows at once")
    monkeypatch.setattr(Pretraining, "_nats", starving)
    with pytest.raises(DeviceError, match="one row at once"):
        run(make_config(), store, dataset, tmp_path / "none")


def test_a_memory_that_is_full_in_a_step_of_the_optimizer_changes_nothing(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_config(), store, dataset, tmp_path / "plain")
    monkeypatch.setattr(pieces, "RUNS_OUT", frozenset({"cpu"}))
    honest, n_calls = Muon._move, count(1)

    def full(*arguments: Any) -> None:
        if next(n_calls) % 17 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        honest(*arguments)

    monkeypatch.setattr(Muon, "_move", full)
    run(make_config(), store, dataset, tmp_path / "full")
    ends = [checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("plain", "full")]
    for file in ("tensors.safetensors", "state.json"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()


@pytest.mark.parametrize("changes", [{"offload": True}, {"shard": True}])
def test_where_states_lie_changes_nothing(
    store: Store, dataset: Manifest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(make_config(), store, dataset, tmp_path / "plain")
    run(make_config(), store, dataset, tmp_path / "other", kill_at=6)
    _, events = run(make_config(**changes), store, dataset, tmp_path / "other")
    ends = [checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("plain", "other")]
    assert (ends[0] / "tensors.safetensors").read_bytes() == (
        ends[1] / "tensors.safetensors"
    ).read_bytes()
    assert any("optimizer states in" in data.get("text", "") for _, data in events)


def starving(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_adapters_alone_are_in_a_checkpoint_and_the_result_is_ordinary(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    base = store_model(store, tiny_model(2), b"{}", "0" * 24, config={}, parents={})
    config = make_config(init_from="base", lora={"rank": 2}, optimizer={"kind": "adamw"})
    folder = tmp_path / "run"
    context = LocalContext(
        store, dataset, folder, torch.device("cpu"), lambda *_: None, lambda: False,
        models={"init_from": base},
    )  # fmt: skip
    result = train(config, context)
    saved = load_checkpoint(checkpoints(folder / "checkpoints")[-1])
    named = [name for name in saved.tensors if name != "optimizer.n_steps"]
    assert named
    assert all(is_adapter(name) for name in named)
    assert saved.state["init_from"] == base.id
    assert result.parameters == TINY.n_parameters
    made = load_model(store, store.load(result.model_id))
    first = load_model(store, base)
    assert torch.equal(made.embedding.weight, first.embedding.weight)
    assert not torch.equal(made.blocks[0].attention.q.weight, first.blocks[0].attention.q.weight)
    adapter = load_adapter(store, store.load(result.model_id))
    for (layer, name), change in adapter.changes.items():
        before, after = (m.blocks[layer].get_submodule(name).weight for m in (first, made))
        torch.testing.assert_close(before + change.outer_OR @ change.inner_RI, after)
    assert len(adapter.changes) == 7 * TINY.n_layers


def test_lasting_divergence_ends_the_run(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss(monkeypatch, first=3, last=99)
    config = make_config(checkpoint_every=2)
    with pytest.raises(TrainingDivergedError, match="until step 7"):
        run(config, store, dataset, tmp_path / "run")
    monkeypatch.undo()
    assert load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[0]).step < 7
    again, _ = run(config, store, dataset, tmp_path / "run")
    assert again is not None


def test_a_broken_validation_is_divergence(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Pretraining._nats

    def broken(*arguments: Any) -> Any:
        nats = honest(*arguments)
        return nats if torch.is_grad_enabled() else nats * float("nan")

    monkeypatch.setattr(Pretraining, "_nats", broken)
    with pytest.raises(TrainingDivergedError, match="held-out"):
        run(make_config(), store, dataset, tmp_path / "run")


def test_a_full_disk_ends_the_run(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise NoSpaceError("full")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    with pytest.raises(NoSpaceError, match="full"):
        run(make_config(), store, dataset, tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoints_that_are_there(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the system when bytes are to be durable, in the middle of the second checkpoint."""
    folder, honest = tmp_path / "cut" / "checkpoints", os.fsync

    def full(descriptor: int) -> None:
        if checkpoints(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(descriptor)

    whole, _ = run(make_config(), store, dataset, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match="no space left"):
            run(make_config(), store, dataset, tmp_path / "cut")
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]
    assert load_checkpoint(folder / "step-00000004").step == 4
    resumed, events = run(make_config(), store, dataset, tmp_path / "cut")
    assert whole is not None
    assert resumed is not None
    assert ("resumed", {"step": 4}) in events
    assert resumed.model_id == whole.model_id


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_checkpoint_stays(
    store: Store,
    dataset: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep_best: bool,
) -> None:
    worth = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4, 10: 2.2, 12: 2.1}
    steps = iter(worth.values())
    monkeypatch.setattr(Pretraining, "validate", lambda *_: {"bits_per_byte": next(steps)})
    config = make_config(
        validate_every=2, checkpoint_every=2, keep_checkpoints=1, keep_best=keep_best
    )
    run(config, store, dataset, tmp_path / "run", kill_at=7)
    steps = iter(list(worth.values())[3:])
    _, events = run(config, store, dataset, tmp_path / "run")
    left = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert left == ["step-00000004"] * keep_best + ["step-00000012"]
    told = [data for kind, data in events if kind == "checkpoint"]
    assert told == [{"step": step, "is_best": False} for step in (8, 10, 12)]


def test_training_goes_on_while_a_checkpoint_is_written(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(keep_checkpoints=9)
    run(config, store, dataset, tmp_path / "plain")
    honest, may_write, n_asked = checkpoint_writer.save_checkpoint, Event(), count(1)

    def slow(*arguments: Any) -> Any:
        assert may_write.wait(10), "training waited for the checkpoint of step 4"
        return honest(*arguments)

    def is_stopping() -> bool:
        if next(n_asked) == 7:
            may_write.set()
        return False

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    folder, device = tmp_path / "slow", torch.device("cpu")
    train(config, LocalContext(store, dataset, folder, device, lambda *_: None, is_stopping))
    pairs = [checkpoints(tmp_path / name / "checkpoints") for name in ("plain", "slow")]
    for plain, late in zip(*pairs, strict=True):
        for file in ("tensors.safetensors", "state.json"):
            assert (plain / file).read_bytes() == (late / file).read_bytes()


def break_loss(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    honest, steps = Pretraining.loss, count(1)  # one micro-batch a step

    def dishonest(*arguments: Any) -> SummedLoss:
        loss = honest(*arguments)
        is_bad = first <= next(steps) <= last
        return SummedLoss(loss.total * float("nan"), loss.count) if is_bad else loss

    monkeypatch.setattr(Pretraining, "loss", dishonest)


def test_the_model_is_stored_with_its_origin(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    result, _ = run(make_config(), store, dataset, tmp_path / "run")
    assert result is not None
    manifest = store.load(result.model_id)
    assert manifest.parents == {"dataset": dataset.id}
    assert manifest.tokenizer_fingerprint == dataset.tokenizer_fingerprint
    assert load_model(store, manifest).config.n_parameters == manifest.counts["parameters"]
