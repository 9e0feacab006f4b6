"""Which peak a device has, and why."""

from __future__ import annotations

import pytest
import torch

from mulm.train.peaks import BF16_TFLOPS, device_peak, run_peak

CPU = torch.device("cpu")


def measured(*_: object) -> float:
    return 7.0


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165.2e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA GeForce RTX 4090", torch.float32, 7.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, 7.0),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", torch.bfloat16, 7.0),
        ("Tesla T4", torch.float32, 7.0),
    ],
)
def test_known_cards_by_their_whole_name(name: str, dtype: torch.dtype, peak: float) -> None:
    found, reason = device_peak(CPU, dtype, name, measured)
    assert found == peak
    assert name in reason
    assert ("measured" in reason) is (peak == 7.0)


def test_cards_of_a_series_rise_with_their_number() -> None:
    for series in (3, 4, 5):
        names = [f"GeForce RTX {series}0{number}0" for number in (6, 7, 8, 9)]
        peaks = [BF16_TFLOPS[name] for name in names]
        assert peaks == sorted(peaks)


def test_a_cpu_is_measured_once() -> None:
    assert "CPUs" in device_peak(CPU, torch.float32, measure=measured)[1]
    assert run_peak(CPU, torch.float32, 1) is run_peak(CPU, torch.float32, 1)
