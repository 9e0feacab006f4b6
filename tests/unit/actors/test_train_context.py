"""A worker's context waits for the ledger for a while only; gloo gets the right interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actors import train_context
from actors.process_group import GLOO_VARIABLE, NCCL_VARIABLE, interface_of, interface_variables
from actors.train_context import FLUSH_TIMEOUT_S, RayTrainContext, threads_per_worker
from mulm.store import Store
from mulm.testing import tiny_dataset


class Line:
    """An event sender whose ledger takes nothing, or all."""

    is_stop_requested = False

    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.told: list[str] = []
        self.waits_s: list[float] = []

    def add(self, kind: str, data: Any) -> None:
        self.told.append(kind)

    def flush(self, timeout_s: float) -> bool:
        self.waits_s.append(timeout_s)
        return self.answers


@pytest.mark.parametrize("answers", [True, False])
def test_only_a_flush_waits_and_says_if_in_vain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    store, line = Store(tmp_path), Line(answers)
    context = RayTrainContext(
        store,
        tiny_dataset(store),
        {},
        tmp_path,
        torch.device("cpu"),
        0,
        2,
        line,  # type: ignore[arg-type]
    )
    context.emit("metric", {"step": 1})
    context.emit("checkpoint", {"step": 1})
    assert line.waits_s == []
    context.flush()
    assert line.waits_s == [FLUSH_TIMEOUT_S]
    assert ("events wait in memory" in caplog.text) is not answers


def test_workers_of_a_machine_share_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_context, "usable_cpus", lambda: 6)
    assert [threads_per_worker(n) for n in (1, 2, 4, 9)] == [6, 3, 1, 1]


def test_the_interface_that_owns_the_address() -> None:
    interfaces = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.168.1.7", "fe80::1"]}
    assert interface_of("192.168.1.7", interfaces) == "eth0"
    assert interface_of("127.0.0.1", interfaces) == "lo"
    assert interface_of("127.0.1.1", interfaces) == "lo"
    assert interface_of("10.0.0.1", interfaces) is None


def test_gloo_and_nccl_are_told_the_interface_of_the_nodes_address() -> None:
    interfaces = {
        "lo": ["127.0.0.1"], "eth0": ["192.168.1.10", "fe80::1"], "wg0": ["10.8.0.1"],
    }  # fmt: skip
    told = interface_variables("10.8.0.1", interfaces)
    assert told == {GLOO_VARIABLE: "wg0", NCCL_VARIABLE: "=wg0"}
    assert interface_variables("127.0.1.1", interfaces) == {GLOO_VARIABLE: "lo"}
    assert interface_variables("192.168.7.7", interfaces) == {}
