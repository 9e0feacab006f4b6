"""Exporters run beside the loop: in order, bounded, and alone in their trouble."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event

import pytest

from mulm.train.exporters.background import Background


class Recorder:
    """An exporter that remembers, or fails at a step, or waits until it may go on."""

    def __init__(self, fails_at: int | None = None, may_go_on: Event | None = None) -> None:
        self.told: list[object] = []
        self.is_closed = False
        self._fails_at, self._may_go_on = fails_at, may_go_on

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        if self._may_go_on:
            self._may_go_on.wait(10)
        if step == self._fails_at:
            raise RuntimeError("the server\nsaid no")
        self.told.append((step, dict(values)))

    def text(self, step: int, name: str, text: str) -> None:
        self.told.append((step, name, text))

    def close(self) -> None:
        self.is_closed = True


def test_all_arrives_in_order() -> None:
    recorder = Recorder()
    exporter = Background("test", lambda: recorder)
    values = {"loss": 1.0}
    exporter.numbers(1, values)
    values["loss"] = 9.0  # the caller may use its dictionary again
    exporter.text(1, "sample_1", "hello")
    exporter.numbers(2, {"loss": 0.5})
    exporter.close()
    assert recorder.told == [(1, {"loss": 1.0}), (1, "sample_1", "hello"), (2, {"loss": 0.5})]
    assert recorder.is_closed
    assert exporter.take_trouble() is None


def test_an_error_ends_the_exporter_and_is_told_once() -> None:
    recorder = Recorder(fails_at=2)
    exporter = Background("test", lambda: recorder)
    for step in (1, 2, 3):
        exporter.numbers(step, {})
    exporter.close()
    exporter.numbers(4, {})
    assert recorder.told == [(1, {})]
    trouble = "export to test: RuntimeError: the server said no; training is not affected"
    assert [exporter.take_trouble(), exporter.take_trouble()] == [trouble, None]


def test_a_slow_exporter_is_not_waited_for() -> None:
    may_go_on = Event()
    recorder = Recorder(may_go_on=may_go_on)
    exporter = Background("test", lambda: recorder, queue_length=3, close_timeout_s=0.05)
    started_s = time.monotonic()
    for step in range(10):
        exporter.numbers(step, {})
    exporter.close()
    assert time.monotonic() - started_s < 5.0
    trouble = exporter.take_trouble()
    assert trouble is not None
    assert "too slow" in trouble
    may_go_on.set()
    for _ in range(200):
        if recorder.is_closed:
            break
        time.sleep(0.05)
    assert recorder.is_closed, "the end is noticed although the queue had no room for it"
    assert 3 <= len(recorder.told) <= 4


def test_what_cannot_be_opened_is_trouble() -> None:
    def make() -> Recorder:
        raise ImportError("no module")

    exporter = Background("test", make)
    exporter.close()
    assert "ImportError: no module" in (exporter.take_trouble() or "")


@pytest.mark.parametrize("n_calls", [0, 1, 500])
def test_closing_waits_for_what_was_told(n_calls: int) -> None:
    recorder = Recorder()
    exporter = Background("test", lambda: recorder)
    for step in range(n_calls):
        exporter.numbers(step, {})
    exporter.close()
    assert len(recorder.told) == n_calls
