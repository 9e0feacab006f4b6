"""Islands: whole runs of several, each in a thread of its own, over real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.checkpoint_files import checkpoints
from mulm.errors import StoppedError
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.result import TrainResult
from mulm.train.settled import SettledConfig
from mulm.train.sync import exchange
from mulm.train.sync.aggregator import Aggregator
from mulm.train.sync.aggregator_server import AggregatorServer
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.round_plan import round_plan

SECRET = "the secret"
STEPS, ROWS = 40, 8


def make_config(optimizer: dict[str, Any] | None = None, **diloco: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": STEPS,
            "batch_tokens": 16 * ROWS, "seq_len": 16, "log_every": 1, "validate_every": 10,
            "checkpoint_every": 10, "precision": "fp32", "compile": False, "samples": None,
            "optimizer": optimizer or {},
            "sync": "diloco", "diloco": {"round_s": 0.05, "grace_s": 1.0} | diloco,
        }
    )  # fmt: skip


@dataclass
class Island:
    """One island's run, in a thread."""

    name: str
    config: TrainConfig
    store: Store
    dataset: Manifest
    folder: Path
    address: tuple[str, int]
    slow_s: float = 0.0
    stop_at: int = 0
    die_at: int = 0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    result: TrainResult | None = None
    error: BaseException | None = None
    n_asked: int = 0

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run)
        thread.start()
        return thread

    def _should_stop(self) -> bool:
        self.n_asked += 1
        time.sleep(self.slow_s)
        if self.die_at and self.n_asked >= self.die_at:
            raise ConnectionAbortedError("the power is gone")
        return self.n_asked == self.stop_at

    def _run(self) -> None:
        link = OuterLink(*self.address, SECRET, self.name, n_islands=2)
        context = LocalContext(
            self.store, self.dataset, self.folder, torch.device("cpu"),
            lambda kind, data: self.events.append((kind, dict(data))), self._should_stop,
            outer=link,
        )  # fmt: skip
        try:
            self.result = train(self.config, context)
        except BaseException as error:  # noqa: BLE001 looked at by the test
            self.error = error


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def dataset(store: Store) -> Manifest:
    return tiny_dataset(store)


Make = Callable[..., Island]
Serve = Callable[..., AggregatorServer]


@pytest.fixture
def serve() -> Iterator[Callable[..., AggregatorServer]]:
    """serve(config, port=0): the aggregator of a run."""
    servers = []

    def start(config: TrainConfig, port: int = 0) -> AggregatorServer:
        plan = replace(round_plan(SettledConfig(**settled(config)), 2), silence_s=3.0)
        servers.append(AggregatorServer(Aggregator(plan), "127.0.0.1", SECRET, (port,)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def settled(config: TrainConfig) -> dict[str, Any]:
    """Rates that nothing here depends on."""
    values = config.model_dump()
    values["optimizer"] |= {"matrix_lr": 0.02, "embedding_lr": 0.002, "weight_decay": 0.0}
    values["schedule"] |= {"warmup": 0.0}
    return values


@pytest.fixture
def make(store: Store, dataset: Manifest, tmp_path: Path) -> Make:
    """make(server, config, name, ...): an island that has not begun."""

    def begin(server: AggregatorServer, config: TrainConfig, name: str, **more: Any) -> Island:
        folder = tmp_path / name
        return Island(name, config, store, dataset, folder, server.address, **more)

    return begin


def finish(*islands: Island) -> None:
    threads = [island.start() for island in islands]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def losses(island: Island) -> list[float]:
    return [data["loss"] for kind, data in island.events if kind == "metric" and "loss" in data]


@pytest.mark.parametrize(
    ("optimizer", "diloco"),
    [
        ({"kind": "muon"}, {}),
        ({"kind": "adamw", "embedding_lr": 0.01}, {}),
        ({"kind": "muon"}, {"overlap": False, "fragments": 1, "wire": "fp32"}),
        # Momentum of 0.9 loses much in few rounds.
        ({"kind": "muon"}, {"outer": "nesterov", "outer_momentum": 0.3, "wire": "int4"}),
    ],
    ids=["streamed with muon", "streamed with adamw", "blocking", "nesterov"],
)
def test_two_islands_learn_one_model(
    make: Make, serve: Serve, optimizer: dict[str, Any], diloco: dict[str, Any]
) -> None:
    config = make_config(optimizer, **diloco)
    server = serve(config)
    a, b = (make(server, config, name, slow_s=0.005) for name in "ab")
    finish(a, b)
    assert a.error is None
    assert b.error is None
    assert a.result is not None
    assert b.result is not None
    assert a.result.steps == b.result.steps == STEPS
    # One leads, judges and stores.
    assert a.result.model_id
    assert not b.result.model_id
    assert a.result.validation < 3.0  # of some six bits at the start
    assert losses(a)[-1] < losses(a)[0]
    # The tokens are those of all, and this machine did a part of them.
    assert not any("mfu" in data for kind, data in a.events if kind == "metric")


def test_the_rows_of_a_run_are_each_taken_once(make: Make, serve: Serve) -> None:
    config = make_config()
    server = serve(config)
    a, b = make(server, config, "a", slow_s=0.01), make(server, config, "b", slow_s=0.03)
    finish(a, b)
    assert server._aggregator.n_done == STEPS * ROWS
    steps = {island.name: island.n_asked for island in (a, b)}
    # Twice as many inner steps as steps, and the faster took more of them.
    assert 2 * STEPS <= sum(steps.values()) < 2 * STEPS + 60
    assert steps["a"] > 1.3 * steps["b"]


def test_all_islands_have_the_same_anchor_after_each_round(
    make: Make, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    server = serve(config)
    seen: dict[str, dict[tuple[int, int], torch.Tensor]] = {"a": {}, "b": {}}
    follow = exchange.Exchanges._follow

    def remember(
        self: exchange.Exchanges, place: int, number: int, anchor_N: torch.Tensor, sent: Any
    ) -> exchange.Exchanged:
        exchanged = follow(self, place, number, anchor_N, sent)
        if exchanged.change_N is not None:
            seen[self._name][place, number] = anchor_N.clone()
        return exchanged

    monkeypatch.setattr(exchange.Exchanges, "_follow", remember)
    finish(*(make(server, config, name, slow_s=0.005) for name in "ab"))
    both = seen["a"].keys() & seen["b"].keys()
    assert len(both) > 8
    assert all(torch.equal(seen["a"][key], seen["b"][key]) for key in both)


def test_an_island_that_dies_costs_the_others_nothing(make: Make, serve: Serve) -> None:
    config = make_config()
    server = serve(config)
    a = make(server, config, "a", slow_s=0.02)
    b = make(server, config, "b", slow_s=0.02, die_at=12)
    finish(a, b)
    assert isinstance(b.error, ConnectionAbortedError)
    assert a.result is not None
    assert a.result.model_id
    assert a.result.steps == STEPS


def test_a_joiner_comes_in_the_midst(make: Make, serve: Serve) -> None:
    config = make_config()
    server = serve(config)
    a, b = make(server, config, "b", slow_s=0.03), make(server, config, "c", slow_s=0.03)
    first = a.start()
    time.sleep(0.6)
    second = b.start()
    for thread in (first, second):
        thread.join(60)
    assert a.result is not None
    assert b.error is None
    assert b.n_asked > 3
    assert a.n_asked + b.n_asked < 2 * STEPS + 60


def test_an_island_that_is_stopped_hands_in_what_it_has_learned(
    make: Make, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(round_s=3600.0)
    server = serve(config)
    offers: list[float] = []
    offer = Aggregator.offer
    monkeypatch.setattr(
        Aggregator, "offer", lambda self, one: (offers.append(one.n_tokens), offer(self, one))[1]
    )
    a = make(server, config, "a", stop_at=6)
    finish(a)
    assert isinstance(a.error, StoppedError)
    # Nothing was due for an hour, and all fragments have the tokens of all steps.
    assert len(offers) == 4
    assert min(offers) == max(offers) > 0


def test_who_does_not_lead_writes_no_checkpoint_when_it_is_stopped(
    make: Make, serve: Serve
) -> None:
    config = make_config()
    server = serve(config)
    a, b = make(server, config, "a", slow_s=0.02), make(server, config, "b", slow_s=0.02, stop_at=9)
    finish(a, b)
    assert isinstance(b.error, StoppedError)
    assert checkpoints(a.folder / "checkpoints")
    assert not checkpoints(b.folder / "checkpoints")
