"""Faster workers get more rows, equal ones keep equal shares, and the batch stays the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train import shares
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.shares import WINDOW_STEPS, Shares, cut, equal, step_s
from tests.unit.train.workers import Workers

Speeds = Callable[[int], Sequence[float]]
"""Seconds that a row takes each worker at a step."""


class Simulated:
    """Workers of given speeds, of which the first really has shares and a clock."""

    def __init__(self, n_rows: int, speeds: Speeds, *, is_balanced: bool = True) -> None:
        self.n_rows, self.speeds, self.now_s, self.told = n_rows, speeds, 0.0, list[str]()
        place: Any = SimpleNamespace(
            rank=0, world_size=len(speeds(0)), now_s=lambda: self.now_s
        )  # fmt: skip
        self.shares = Shares(n_rows, place, is_balanced=is_balanced)
        self.times = [list[float]() for _ in speeds(0)]

    def sum_values(self, values: Sequence[float]) -> list[float]:
        means = [sorted(window)[len(window) // 2] for window in self.times]
        self.times = [[] for _ in self.times]
        return [values[0], *means[1:]]

    def run(self, n_steps: int) -> list[float]:
        """The share of all workers' speed that each step used."""
        used = []
        for step in range(n_steps):
            row_s, rows = self.speeds(step), self.shares._cut
            with self.shares.timed():
                self.now_s += rows[0] * row_s[0]
            for window, seconds in zip(self.times, row_s, strict=True):
                window.append(seconds)
            used.append(self.n_rows / step_s(rows, row_s) / sum(1 / s for s in row_s))
            sync: Any = self
            self.told += filter(None, [self.shares.rebalance(sync)])
        return used


def always(*row_s: float) -> Speeds:
    return lambda _: row_s


@pytest.mark.parametrize(
    "speeds", [(1.0, 2.0), (2.0, 1.0), (1.0, 1.3), (1.0, 1.0, 3.0), (5.0, 1.0, 1.7, 2.0)]
)
def test_unequal_workers_are_used_to_95_percent(speeds: tuple[float, ...]) -> None:
    group = Simulated(96, always(*speeds))
    used = group.run(4 * WINDOW_STEPS)
    assert used[-1] >= 0.95
    assert used[-1] > used[0]
    assert len(group.told) == 1
    assert "rows by worker are now" in group.told[0]


def test_a_worker_twice_as_slow() -> None:
    used = Simulated(96, always(1.0, 2.0)).run(4 * WINDOW_STEPS)
    assert used[0] == pytest.approx(2 / 3)
    assert used[-1] == pytest.approx(1.0)


def test_equal_workers_keep_equal_shares() -> None:
    def noisy(step: int) -> Sequence[float]:
        return 1.0 + 0.05 * (step % 3), 1.0 + 0.06 * (step % 2)

    for speeds in (noisy, always(1.0, 1.09)):
        group = Simulated(96, speeds)
        group.run(20 * WINDOW_STEPS)
        assert not group.told
        assert group.shares.own == (0, 48)


def test_a_short_disturbance_moves_nothing() -> None:
    def disturbed(step: int) -> Sequence[float]:
        return 1.0, 4.0 if 40 <= step < 46 else 1.0

    group = Simulated(96, disturbed)
    group.run(10 * WINDOW_STEPS)
    assert not group.told


def test_speeds_that_change_are_followed() -> None:
    def changing(step: int) -> Sequence[float]:
        return (1.0, 2.0) if step < 100 else (1.0, 1.0)

    group = Simulated(96, changing)
    used = group.run(300)
    assert min(used[90], used[-1]) >= 0.95


def test_told_not_to_balance_it_never_does() -> None:
    group = Simulated(96, always(1.0, 2.0), is_balanced=False)
    group.run(10 * WINDOW_STEPS)
    assert not group.told


@pytest.mark.parametrize("n_rows", [4, 5, 17, 96])
def test_cuts_cover_the_batch_with_a_row_each(n_rows: int) -> None:
    for row_s in ((1.0, 1.0, 1.0), (1.0, 50.0, 1.0), (0.1, 0.2, 0.3)):
        rows = cut(n_rows, row_s)
        assert sum(rows) == n_rows
        assert min(rows) >= 1
        assert sum(equal(n_rows, 3)) == n_rows
        assert step_s(rows, row_s) <= step_s(equal(n_rows, 3), row_s)


class Slowed(Pretraining):
    """A row takes worker 1 twice as long; sleeping workers do not take each other's cores."""

    rows_seen: list[tuple[int, int, int]]

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Any]:
        self.rows_seen = [*getattr(self, "rows_seen", []), (step, start, stop)]
        time.sleep((stop - start) * ROW_S[self.context.rank])
        return super().micro_batches(step, start, stop)


ROW_S = (0.020, 0.040)
"""Long beside what a step costs else, also on a busy machine."""
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 16, "batch_tokens": 480,
        "seq_len": 16, "precision": "fp32", "log_every": 1, "validate_every": 16,
        "checkpoint_every": 16,
    }
)  # fmt: skip
Trained = tuple[list[float], list[float], list[tuple[int, int, int]], list[str]]


def slowed_run(rank: int, root: str, folder: str, world_size: int) -> Trained:
    """Losses, the time after each step, rows by step and what the log says."""
    store = Store(Path(root) / "store")
    losses, ended_s, texts = list[float](), list[float](), list[str]()

    def on_event(kind: str, data: Any) -> None:
        if kind == "metric" and "loss" in data:
            losses.append(data["loss"])
            ended_s.append(time.monotonic())
        texts.append(str(data.get("text", "")))

    context = LocalContext(
        store, tiny_dataset(store), Path(root) / folder, torch.device("cpu"), on_event,
        lambda: False, rank=rank, world_size=world_size,
    )  # fmt: skip
    objective = Slowed(CONFIG, context)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shares, "WINDOW_STEPS", 3)
        train(CONFIG, context, objective)
    return losses, ended_s, objective.rows_seen, texts


@pytest.mark.slow
def test_a_slow_worker_holds_nobody_up_and_the_loss_stays(workers: Workers, tmp_path: Path) -> None:
    (losses, ended_s, first_rows, texts), (_, _, second_rows, _) = workers.run(
        slowed_run, str(tmp_path), "two", 2
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"{__name__}.ROW_S", (0.0, 0.0))
        alone = slowed_run(0, str(tmp_path), "one", 1)[0]
    assert losses == pytest.approx(alone, rel=1e-4)
    n_rows = CONFIG.n_rows
    for (step, start, middle), (other, again, stop) in zip(first_rows, second_rows, strict=True):
        assert (step, start, middle, stop) == (other, 0, again, n_rows)
    assert first_rows[0][2] == n_rows // 2
    assert first_rows[-1][2] in (19, 20, 21)
    assert any("rows by worker are now" in text for text in texts)
    # The fastest step: others of this machine slow some down, and nothing makes one faster.
    fastest_s = min(b - a for a, b in pairwise(ended_s[-6:]))
    possible_s = n_rows / sum(1 / seconds for seconds in ROW_S)
    print(f"used {possible_s / fastest_s:.3f} of the summed speed")
    assert possible_s / fastest_s > 0.75, "sums and updates included; equal shares never pass 0.67"
