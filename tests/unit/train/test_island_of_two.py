"""An island of two workers, which sum gradients every step, beside an island of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.result import TrainResult
from mulm.train.settling import settle
from mulm.train.sync import exchange
from mulm.train.sync.aggregator import Aggregator
from mulm.train.sync.aggregator_server import AggregatorServer
from mulm.train.sync.diloco import DilocoSync
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.round_plan import round_plan
from tests.unit.train.workers import DEADLINE_S, N_WORKERS, Workers

pytestmark = pytest.mark.slow

SECRET, STEPS, ROWS = "the secret", 60, 8
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": STEPS,
        "batch_tokens": 16 * ROWS, "seq_len": 16, "log_every": 1, "validate_every": STEPS,
        "checkpoint_every": STEPS, "precision": "fp32", "compile": False, "samples": None,
        "sync": "diloco", "diloco": {"round_s": 0.05, "grace_s": 5.0},
    }
)  # fmt: skip
Place = tuple[int, int]
"""A fragment, and the number of a round."""


@dataclass
class Seen:
    """What a worker did, and had at the end."""

    result: TrainResult
    weights: list[Tensor]
    anchors: dict[Place, str]
    """Of worker 0, after each update, as a checksum."""
    changes: list[str]
    """What it added to its weights, in their order."""


def live(rank: int, world_size: int, folder: Path, name: str, address: tuple[str, int]) -> Seen:
    """One worker of an island, from the beginning of a run to its end."""
    anchors: dict[Place, str] = {}
    changes: list[str] = []
    weights: list[Tensor] = []
    finish, follow, add = DilocoSync.finish, exchange.Exchanges._follow, DilocoSync._told

    def finished(self: DilocoSync) -> None:
        finish(self)
        if self._context.rank == rank and self._context.world_size == world_size:
            weights.extend(fragment.read() for fragment in self._fragments)

    def followed(
        self: exchange.Exchanges, place: int, number: int, anchor_N: Tensor, sent: Any
    ) -> exchange.Exchanged:
        exchanged = follow(self, place, number, anchor_N, sent)
        if exchanged.change_N is not None:
            anchors[place, number] = _sum(anchor_N)
        return exchanged

    def told(self: DilocoSync, size: int, change_N: Tensor | None) -> Tensor:
        change_N = add(self, size, change_N)
        changes.append(_sum(change_N))
        return change_N

    store = Store(folder / "store")
    context = LocalContext(
        store, tiny_dataset(store), folder / name, torch.device("cpu"),
        lambda _kind, _data: None, slowly, rank=rank,
        world_size=world_size, outer=OuterLink(*address, SECRET, name, n_islands=2),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DilocoSync, "finish", finished)
        patched.setattr(exchange.Exchanges, "_follow", followed)
        patched.setattr(DilocoSync, "_told", told)
        result = train(CONFIG, context)
    return Seen(result, weights, anchors, changes)


def slowly() -> bool:
    """Asked after each step, whether to stop: no, but there are rounds meanwhile."""
    time.sleep(0.02)
    return False


def of_two(rank: int, folder: str, address: tuple[str, int]) -> Seen:
    return live(rank, N_WORKERS, Path(folder), "a", address)


def _sum(value_N: Tensor) -> str:
    return sha256(value_N.numpy().tobytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AggregatorServer]:
    store = Store(tmp_path / "store")
    settled = settle(CONFIG, store, tiny_dataset(store), {}).config
    plan = replace(round_plan(settled, 2), silence_s=30.0)
    server = AggregatorServer(Aggregator(plan), "127.0.0.1", SECRET)
    yield server
    server.close()


def test_workers_of_an_island_move_as_one_and_islands_agree(
    workers: Workers, server: AggregatorServer, tmp_path: Path
) -> None:
    alone: list[Seen] = []

    def be_beside() -> None:
        end_s = time.monotonic() + DEADLINE_S
        while "a" not in server._aggregator._members and time.monotonic() < end_s:
            time.sleep(0.01)
        alone.append(live(0, 1, tmp_path, "b", server.address))

    beside = threading.Thread(target=be_beside)
    beside.start()
    first, second = workers.run(of_two, str(tmp_path), server.address)
    beside.join(DEADLINE_S)
    (other,) = alone
    assert {seen.result.steps for seen in (first, second, other)} == {STEPS}
    assert server._aggregator.n_done == STEPS * ROWS
    # Within the island all is the same bit for bit: what was added on the way, and the end.
    assert len(first.changes) > 8
    assert first.changes == second.changes
    assert len(first.weights) == 4
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        assert torch.equal(ours, theirs)
    # Worker 0 alone speaks for it.
    assert first.result.model_id
    assert not second.result.model_id
    assert not second.anchors
    # Both islands have one anchor after each round that both took part in.
    both = first.anchors.keys() & other.anchors.keys()
    assert len(both) > 8
    assert all(first.anchors[place] == other.anchors[place] for place in both)
    # The last round may be of one alone: it has what rounding left of the one before.
    for ours, theirs in zip(first.weights, other.weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-3)
