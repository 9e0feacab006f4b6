"""Spikes are seen, ordinary noise is not, and a checkpoint holds all that is remembered."""

from __future__ import annotations

import json
import math
import random

import pytest

from mulm.errors import TrainingDivergedError
from mulm.train.spikes import FIRST_STEPS, MAX_SKIPPED_IN_ROW, LossWatch


def watched(losses: list[float]) -> LossWatch:
    watch = LossWatch()
    for loss in losses:
        watch.taken(loss)
    return watch


def test_mean_and_variance_are_those_of_what_was_seen() -> None:
    losses = [random.Random(seed).gauss(3.0, 0.5) for seed in range(50)]
    watch = watched(losses)
    mean = sum(losses) / 50
    assert watch.mean == pytest.approx(mean)
    assert watch.variance == pytest.approx(sum((loss - mean) ** 2 for loss in losses) / 50)


def test_a_spike_is_far_above_all_before() -> None:
    draw = random.Random(1)
    watch = watched([draw.gauss(3.0, 0.2) for _ in range(200)])
    assert not any(watch.is_spike(draw.gauss(3.0, 0.2)) for _ in range(1000))
    assert not watch.is_spike(1.0)
    assert watch.is_spike(6.0)
    assert not watched([0.001] * 200).is_spike(0.2), "below a quarter of a nat nothing is a spike"
    assert not watched([3.0] * (FIRST_STEPS - 1)).is_spike(30.0), "too early to tell"


def test_a_falling_loss_has_no_spikes() -> None:
    draw, watch = random.Random(2), LossWatch()
    for step in range(500):
        loss = 10 * math.exp(-step / 40) + 2 + draw.gauss(0, 0.1)
        assert not watch.why_skip(loss, skips_spikes=True)
        watch.taken(loss)


def test_a_watch_survives_a_checkpoint() -> None:
    watch = watched([random.Random(seed).random() for seed in range(99)])
    watch.skipped(100, "why", is_bad=True)
    assert LossWatch(**json.loads(json.dumps(watch.facts()))) == watch


def test_too_many_in_a_row_end_the_run() -> None:
    watch = watched([3.0])
    for step in range(99):
        watch.skipped(step, "nothing to learn", is_bad=False)
    for step in range(MAX_SKIPPED_IN_ROW - 1):
        watch.skipped(step, "why", is_bad=True)
    with pytest.raises(TrainingDivergedError, match="until step 9: its loss is nan"):
        watch.skipped(9, "its loss is nan", is_bad=True)
    watch.taken(3.0)
    watch.skipped(10, "why", is_bad=True)
    assert watch.why_skip(math.inf, skips_spikes=False) == "its loss is inf"
    steady = watched([3.0] * 99)
    assert "far above" in steady.why_skip(9.0, skips_spikes=True)
    assert not steady.why_skip(9.0, skips_spikes=False)
