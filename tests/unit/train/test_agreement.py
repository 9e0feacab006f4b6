"""Workers that would begin differently are told so, all of them, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

from mulm.errors import ConfigError, CorruptError, MulmError
from mulm.model.microlm import MicroLM
from mulm.testing import TINY, TINY_SHAPE
from mulm.train import state as states
from mulm.train.agreement import require_agreement
from mulm.train.settled import SettledConfig
from mulm.train.state import TrainState

CONFIG = SettledConfig.model_validate(
    {
        "name": "a", "dataset": "a", "model": TINY_SHAPE, "steps": 1, "seq_len": 16,
        "batch_tokens": 64, "schedule": {"warmup": 0.0},
        "optimizer": {"matrix_lr": 0.02, "embedding_lr": 0.004, "weight_decay": 0.0},
    }
)  # fmt: skip


class Threads:
    """A `Sync` of workers that are threads."""

    def __init__(self, n: int) -> None:
        self.sums: dict[int, list[float]] = {}
        self.barrier = Barrier(n, timeout=10)

    def of(self, rank: int) -> Any:
        return _Rank(self, rank)


class _Rank:
    def __init__(self, group: Threads, rank: int) -> None:
        self.group, self.rank = group, rank

    def sum_values(self, values: Sequence[float]) -> list[float]:
        self.group.sums[self.rank] = list(values)
        self.group.barrier.wait()
        return [sum(column) for column in zip(*self.group.sums.values(), strict=True)]


def a_state(precision: str = "fp32", seed: int = 0, step: int = 0) -> TrainState:
    config = CONFIG.model_copy(update={"seed": seed})
    model = MicroLM(TINY).init_weights(torch.Generator().manual_seed(seed))
    state = states.fresh(config, model, torch.device("cpu"), precision)
    state.step = step
    return state


def outcomes(*members: TrainState) -> list[MulmError | None]:
    group, found = Threads(len(members)), dict[int, MulmError | None]()

    def begin(rank: int) -> None:
        try:
            require_agreement(members[rank], group.of(rank), rank, len(members))
            found[rank] = None
        except MulmError as error:
            found[rank] = error

    threads = [Thread(target=begin, args=(rank,)) for rank in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [found[rank] for rank in range(len(members))]


def test_equal_workers_begin() -> None:
    assert outcomes(a_state(), a_state(), a_state()) == [None] * 3


def changed_moment() -> TrainState:
    state = a_state()
    state.optimizer.tensors()["momentum.blocks.0.mlp.down.weight"][0, 0] = 1.0
    return state


@pytest.mark.parametrize(
    ("other", "kind", "words"),
    [
        (a_state(step=40), ConfigError, "worker 0 begins at step 0, worker 1 at 40"),
        (a_state("bf16"), ConfigError, "worker 0 computes in fp32, worker 1 in bf16"),
        (a_state(seed=1), CorruptError, "workers 0 and 1 begin at step 0 with different weights"),
        (changed_moment(), CorruptError, "different weights"),
    ],
)
def test_another_beginning_is_refused_by_all(
    other: TrainState, kind: type[MulmError], words: str
) -> None:
    for error in outcomes(a_state(), other):
        assert isinstance(error, kind)
        assert words in error.message
