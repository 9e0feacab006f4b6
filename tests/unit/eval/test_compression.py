"""Bits per byte count every token once, with or without a sliding context."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from mulm.data.loader import TokenLoader
from mulm.errors import DataError, TrainingDivergedError
from mulm.eval import compression
from mulm.eval.compression import (
    bits_per_byte,
    sum_nats,
    to_bits_per_byte,
    with_context,
    xz_bits_per_byte,
)
from mulm.model.quantize import Bits
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_model


@pytest.mark.parametrize("stride", [4, 5, 8, 16])
def test_every_token_is_a_target_once(tmp_path: Path, stride: int) -> None:
    store = Store(tmp_path)
    dataset = tiny_dataset(store)
    loader = TokenLoader(store, dataset, "validation", seq_len=stride)
    plain = torch.cat([y[y >= 0] for _, y in loader.iter_validation(3)])
    n_targets = 0
    for x_BT, y_BT in with_context(loader.iter_validation(3), 16 - stride):
        assert x_BT.shape == y_BT.shape
        assert x_BT.shape[1] <= 16
        n_targets += int((y_BT >= 0).sum())
    assert n_targets == len(plain) == 149


def test_windows_without_overlap_equal_the_plain_sum(tmp_path: Path) -> None:
    store, model = Store(tmp_path), tiny_model()
    dataset = tiny_dataset(store, n_validation=64)
    loader = TokenLoader(store, dataset, "validation", seq_len=63)
    ((x_BT, y_BT),) = loader.iter_validation(4)
    log_probs = model.logits(model(x_BT)).log_softmax(-1)
    nats = -log_probs.gather(-1, y_BT[..., None]).sum().item()
    measured = bits_per_byte(model, store, dataset, seq_len=63)
    assert measured == pytest.approx(nats / math.log(2) / 64)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantised_model_is_judged_by_the_logits_that_it_serves(
    tmp_path: Path, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compression.LOSS_CHUNK_TOKENS, "cpu", 20)
    model = QuantizedMicroLM.of(tiny_model(), Quantization(linear=bits, embedding=bits))
    model.pack()
    loader = TokenLoader(Store(tmp_path), tiny_dataset(Store(tmp_path)), "validation", seq_len=16)
    exact = sum(
        float(functional.cross_entropy(model.logits(model(x))[0], y[0], reduction="sum"))
        for x, y in loader.iter_validation(1)
    )
    measured = sum_nats(model, loader.iter_validation(2), torch.float32)
    assert measured == pytest.approx(exact, rel=1e-6)


def test_context_is_really_seen(tmp_path: Path) -> None:
    store, model = Store(tmp_path), tiny_model()
    dataset = tiny_dataset(store, n_validation=33)
    whole = TokenLoader(store, dataset, "validation", seq_len=32)
    pieces = TokenLoader(store, dataset, "validation", seq_len=8)
    exact = sum_nats(model, whole.iter_validation(1), torch.float32)
    sliding = sum_nats(model, with_context(pieces.iter_validation(2), 24), torch.float32)
    assert sliding == pytest.approx(exact, rel=1e-5)


def test_progress_counts_every_token(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told: list[tuple[int, int]] = []
    bits_per_byte(
        tiny_model(), store, tiny_dataset(store), seq_len=16, stride=8, batch_rows=4,
        on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == (149, 149)


def test_numbers_that_are_not_finite_are_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="not a finite number"):
        to_bits_per_byte(math.nan, tiny_dataset(Store(tmp_path)))


def test_no_validation_text_is_said(tmp_path: Path) -> None:
    dataset = tiny_dataset(Store(tmp_path))
    bare = dataset.model_copy(update={"counts": {}})
    with pytest.raises(DataError, match="no validation text"):
        to_bits_per_byte(1.0, bare)


def test_xz_needs_few_bits_for_a_dull_text(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert 0 < xz_bits_per_byte(store, tiny_dataset(store, n_validation=4000)) < 1
