from __future__ import annotations

import pytest
import torch

from mulm.native import threads
from mulm.native.model import NativeModel
from mulm.native.threads import candidates, choose_threads, fastest
from tests.unit.native.shapes import micro, read, tokens


@pytest.mark.parametrize(
    ("n_cpus", "counts"),
    [(1, [1]), (2, [2]), (3, [3, 2, 1]), (4, [4, 3, 2, 1]), (16, [16, 12, 8, 4])],
)
def test_what_is_tried(n_cpus, counts):
    assert candidates(n_cpus) == counts


def test_the_most_that_are_about_as_fast_as_the_best():
    assert fastest({16: 1.0, 8: 1.0}) == 16
    assert fastest({16: 1.05, 8: 1.0}) == 16, "noise"
    assert fastest({16: 1.3, 12: 1.02, 8: 1.0, 4: 1.6}) == 12
    assert fastest({16: 2.0, 12: 1.5, 8: 1.4, 4: 1.0}) == 4


def test_numbers_do_not_depend_on_the_count(kernels):
    native, ids = NativeModel(micro("odd"), kernels, 2), tokens(90)
    before = read(native, ids)
    for count in (1, 5, 2, 3):
        native.set_threads(count)
        assert torch.equal(read(native, ids), before)


def test_a_model_computes_with_what_was_found_fastest(kernels, monkeypatch):
    native, ids = NativeModel(micro(), kernels, 2), tokens(20)
    before = read(native, ids)
    clock = iter(range(10**6))

    def step(model, _cache):  # 8 threads are in each other's way, 2 too few
        for _ in range({8: 30, 6: 9, 4: 8, 2: 16}[model.n_threads]):
            next(clock)

    monkeypatch.setattr(threads, "_step", step)
    assert choose_threads(native, 8, lambda: next(clock) / 10_000) == 4
    assert native.n_threads == 4
    assert torch.equal(read(native, ids), before)


def test_a_real_model_ends_with_one_of_what_was_tried(kernels):
    native = NativeModel(micro(), kernels, 2)
    assert choose_threads(native, 4) in candidates(4)
    assert choose_threads(native, 2) == native.n_threads == 2


@pytest.mark.parametrize(("step_s", "n_steps", "chosen"), [(0.06, 16, 2), (0.2, 4, 8), (9.0, 2, 8)])
def test_a_slow_machine_is_not_asked_long(kernels, monkeypatch, step_s, n_steps, chosen):
    native, now_s, taken = NativeModel(micro(), kernels, 2), 0.0, 0

    def step(model, _cache):
        nonlocal now_s, taken
        now_s, taken = now_s + step_s * model.n_threads / 4, taken + 1

    monkeypatch.setattr(threads, "_step", step)
    assert choose_threads(native, 8, lambda: now_s) == chosen
    assert taken == n_steps
