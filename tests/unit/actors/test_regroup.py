"""A worker stops when its machine is wanted back, or the driver has room for more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from actors import regroup
from actors.regroup import RegroupWatch, ask_regroup, forget_regroup, watch_regroup
from actors.train_context import RayTrainContext
from mulm.store import Store
from mulm.testing import tiny_dataset

PATIENCE_S = 20.0


class Kv:
    """The cluster's words, and its draining machines."""

    def __init__(self) -> None:
        self.words: dict[bytes, bytes] = {}
        self.draining: frozenset[str] = frozenset()
        self.n_asked, self.asked = 0, threading.Condition()

    def internal_kv_put(self, key: bytes, word: bytes, *_: object, **__: object) -> None:
        self.words[key] = word

    def internal_kv_del(self, key: bytes, *_: object, **__: object) -> None:
        self.words.pop(key, None)

    def internal_kv_get(self, key: bytes, **_: object) -> bytes | None:
        with self.asked:
            self.n_asked += 1
            self.asked.notify_all()
        if self.n_asked == 1:
            raise ConnectionError("away")
        return self.words.get(key)

    def wait_for_looks(self, count: int) -> None:
        with self.asked:
            wanted = self.n_asked + count
            assert self.asked.wait_for(lambda: self.n_asked >= wanted, PATIENCE_S)


@pytest.fixture
def kv(monkeypatch: pytest.MonkeyPatch) -> Kv:
    kv = Kv()
    monkeypatch.setattr(regroup, "_client", lambda: kv)
    monkeypatch.setattr(regroup, "draining_nodes", lambda: kv.draining)
    monkeypatch.setattr(regroup, "POLL_S", 0.01)
    place = type("Place", (), {"get_node_id": lambda _: "here"})
    monkeypatch.setattr(ray, "get_runtime_context", place)
    return kv


@pytest.fixture
def watch(kv: Kv) -> Iterator[RegroupWatch]:
    watch = watch_regroup("run_t")
    yield watch
    watch.close()


def wait_for(watch: RegroupWatch) -> bool:
    return watch._due.wait(PATIENCE_S)


def test_a_machine_that_is_wanted_back_is_noticed(kv: Kv, watch: RegroupWatch) -> None:
    kv.draining = frozenset({"elsewhere"})
    kv.wait_for_looks(3)
    assert not watch.is_due
    kv.draining = frozenset({"here"})
    assert wait_for(watch)


def test_the_driver_is_heard_by_its_own_run(kv: Kv, watch: RegroupWatch) -> None:
    ask_regroup("run_other")
    kv.wait_for_looks(3)
    assert not watch.is_due
    ask_regroup("run_t")
    assert wait_for(watch)
    forget_regroup("run_t")
    later = watch_regroup("run_t")
    kv.wait_for_looks(3)
    assert not later.is_due
    later.close()


def test_a_worker_stops_for_it(kv: Kv, watch: RegroupWatch, tmp_path: Path) -> None:
    store = Store(tmp_path)
    context = RayTrainContext(
        store, tiny_dataset(store), {}, tmp_path, torch.device("cpu"), 1, 2, None, regroup=watch
    )
    assert not context.should_stop()
    ask_regroup("run_t")
    assert wait_for(watch)
    assert context.should_stop()
