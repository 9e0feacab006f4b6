"""Codecs: what they take, what they round, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulm.errors import CorruptError, TrainingDivergedError
from mulm.train.sync.codec import Codec
from mulm.train.sync.codecs import BLOCK, CODECS

ALL = tuple(CODECS.values())
ERROR = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.505 / 127, "int4": 0.505 / 7}
"""The largest error, of the largest number of a block; a scale is up to 1 % too large."""


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@given(
    count=st.integers(0, 3 * BLOCK + 1),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_numbers_come_back_up_to_the_rounding(
    codec: Codec, count: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_N = torch.randn(count, generator=generator) * 2.0**exponent
    payload = codec.encode(x_N)
    assert len(payload) == codec.size_bytes(count)
    y_N = codec.decode(payload, count)
    assert y_N.dtype == torch.float32
    for first in range(0, count, BLOCK):
        x_S, y_S = x_N[first : first + BLOCK], y_N[first : first + BLOCK]
        assert (x_S - y_S).abs().max() <= ERROR[codec.name] * x_S.abs().max() * 1.02
    assert codec.encode(x_N) == payload


@pytest.mark.parametrize(("wire", "most"), [("int8", 1.02), ("int4", 0.52)])
def test_size_has_all_overhead(wire: str, most: float) -> None:
    count = 23_000_003
    assert CODECS[wire].size_bytes(count) <= most * count  # type: ignore[index]


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_does_not_travel(codec: Codec, value: float) -> None:
    x_N = torch.zeros(300)
    x_N[299] = value
    with pytest.raises(TrainingDivergedError, match="not finite"):
        codec.encode(x_N)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
def test_another_size_is_refused(codec: Codec) -> None:
    payload = codec.encode(torch.ones(301))
    for wrong in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(CorruptError, match="bytes where"):
            codec.decode(wrong, 301)


@pytest.mark.parametrize("wire", ["int8", "int4"])
def test_a_scale_that_is_no_number_is_refused(wire: str) -> None:
    codec = CODECS[wire]  # type: ignore[index]
    payload = b"\xff\xff" + codec.encode(torch.ones(10))[2:]
    with pytest.raises(CorruptError, match="scale"):
        codec.decode(payload, 10)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 3e38])
def test_the_ends_of_the_range(codec: Codec, largest: float) -> None:
    x_N = torch.tensor([largest, -largest, 0.0])
    y_N = codec.decode(codec.encode(x_N), 3)
    assert torch.isfinite(y_N).all()
    assert (x_N - y_N).abs().max() <= max(0.09 * largest, 2e-37)


def test_a_part_of_a_larger_buffer_is_decoded() -> None:
    codec = CODECS["int4"]
    x_N = torch.linspace(-1, 1, 77)
    payload = codec.encode(x_N)
    buffer = memoryview(b"\1" + payload)
    assert torch.equal(codec.decode(buffer[1:], 77), codec.decode(payload, 77))
