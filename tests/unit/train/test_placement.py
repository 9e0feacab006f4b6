"""States go where the config says, else to the first place where they fit."""

from __future__ import annotations

from typing import Any

import pytest

from mulm.model.presets import preset
from mulm.train.config import TrainConfig
from mulm.train.memory import USABLE, step_memory
from mulm.train.micro_batch import choose_micro_batch
from mulm.train.placement import Placement, choose_placement, step_choices

BASE = preset("base", 32768)
GIB = 1 << 30


def config_of(**changes: Any) -> TrainConfig:
    values = {
        "name": "a", "dataset": "b", "preset": "base", "seq_len": 1024, "workers": 2,
        "activation_checkpointing": True, "optimizer": {"kind": "adamw"},
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def place(memory_gib: float | None, n_workers: int = 2, **changes: Any) -> Placement:
    room = None if memory_gib is None else int(memory_gib * GIB)
    return choose_placement(config_of(**changes), BASE, "cuda", "bf16", room, n_workers)


def peak_gib(placement: Placement) -> float:
    choices = step_choices(config_of(), "cuda", "bf16", 1, placement)
    return step_memory(BASE, choices).peak_bytes / GIB / USABLE


def test_slower_ways_come_where_nothing_faster_fits() -> None:
    here, shared, away = (
        peak_gib(placement)
        for placement in (
            Placement(), Placement(n_shards=2), Placement(n_shards=2, is_offloaded=True),
        )
    )  # fmt: skip
    assert here > shared > away
    found = [place(room) for room in (here + 0.1, here - 0.1, shared - 0.1, away - 0.1)]
    assert [(p.n_shards, p.is_offloaded) for p in found] == [
        (1, False), (2, False), (1, True), (2, True),
    ]  # fmt: skip
    assert [p.reason for p in found] == [
        "they fit", "nothing faster fits", "nothing faster fits", "even so one row may not fit",
    ]  # fmt: skip


def test_one_worker_has_nobody_to_share_with() -> None:
    assert place(1000, n_workers=1) == Placement(reason="they fit")
    assert place(6, n_workers=1, shard=True).n_shards == 1
    assert place(8, n_workers=1).is_offloaded


@pytest.mark.parametrize("is_offloaded", [True, False])
@pytest.mark.parametrize("is_shared", [True, False])
def test_what_was_asked_for(is_offloaded: bool, is_shared: bool) -> None:
    found = place(1000, offload=is_offloaded, shard=is_shared)
    assert found == Placement(1 + is_shared, is_offloaded=is_offloaded, reason="asked for")


def test_on_a_cpu_memory_is_no_bound() -> None:
    assert place(None).reason == "memory is no bound"


def test_the_micro_batch_counts_with_it() -> None:
    def rows(**changes: Any) -> int:
        return choose_micro_batch(config_of(**changes), BASE, "cuda", "bf16", int(9.5 * GIB)).rows

    assert rows(shard=False, offload=True) > rows(shard=False, offload=False)


def test_the_plan_counts_shares_and_the_memory_of_the_cpu() -> None:
    def memory(placement: Placement) -> Any:
        return step_memory(BASE, step_choices(config_of(), "cuda", "bf16", 1, placement))

    here, shared = memory(Placement()), memory(Placement(n_shards=4))
    away = memory(Placement(is_offloaded=True))
    assert shared.states_bytes == pytest.approx(here.states_bytes / 4, rel=0.15)
    assert (away.states_bytes, away.offloaded_bytes) == (0, here.states_bytes)
    assert shared.update_bytes < here.update_bytes
