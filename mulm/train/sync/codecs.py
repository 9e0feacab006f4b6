"""The codecs: fp32, bf16, and int8 or int4 with a scale for each block.

Used by the rounds of DiLoCo. Invariants: see `codec`. A block's scale is a bf16 number that was
rounded up, so that no number of the block is cut off; with 128 numbers to a block, int8 takes 1.016
and int4 0.516 bytes a number. Shape letters: N numbers, K blocks, S numbers of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mulm.errors import CorruptError, TrainingDivergedError
from mulm.train.sync.codec import Codec, Wire

BLOCK = 128
_SCALE_BYTES = 2
_SMALLEST_SCALE = 2.0**-126
"""A block of zeros, or of numbers too small for a scale, is sent as zeros."""


@dataclass(frozen=True, slots=True)
class Fp32Codec:
    """Every bit."""

    name: ClassVar[Wire] = "fp32"

    def size_bytes(self, count: int) -> int:
        """Four bytes a number."""
        return 4 * count

    def encode(self, x_N: Tensor) -> bytes:
        """The numbers as they lie in memory."""
        _require_finite(x_N)
        return _to_bytes(x_N.contiguous())

    def decode(self, payload: bytes | memoryview, count: int) -> Tensor:
        """The same numbers."""
        _require_size(payload, self.size_bytes(count))
        return _from_bytes(payload, torch.float32)


@dataclass(frozen=True, slots=True)
class Bf16Codec:
    """Eight bits of each number's fraction."""

    name: ClassVar[Wire] = "bf16"

    def size_bytes(self, count: int) -> int:
        """Two bytes a number."""
        return 2 * count

    def encode(self, x_N: Tensor) -> bytes:
        """Rounded to the nearest."""
        rounded_N = x_N.bfloat16()
        _require_finite(rounded_N)
        return _to_bytes(rounded_N)

    def decode(self, payload: bytes | memoryview, count: int) -> Tensor:
        """The rounded numbers."""
        _require_size(payload, self.size_bytes(count))
        return _from_bytes(payload, torch.bfloat16).float()


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """Whole numbers of `bits` bits, times their block's scale."""

    name: Wire
    bits: int

    @property
    def _largest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def size_bytes(self, count: int) -> int:
        """A scale for each block, and `bits` for each number, filled up to whole bytes."""
        n_blocks = -(-count // BLOCK)
        return n_blocks * _SCALE_BYTES + -(-count * self.bits // 8)

    def encode(self, x_N: Tensor) -> bytes:
        """Rounded to the nearest multiple of the block's scale."""
        _require_finite(x_N)
        x_KS = _in_blocks(x_N)
        scale_K = _rounded_up(x_KS.abs().amax(dim=1) / self._largest)
        scaled_KS = x_KS / scale_K.float().clamp_min(_SMALLEST_SCALE)[:, None]
        # Past the largest only where the scale of a block would be subnormal.
        whole_N = scaled_KS.round_().clamp_(-self._largest, self._largest).to(torch.int8)
        whole_N = whole_N.view(-1)[: x_N.numel()]
        return _to_bytes(scale_K) + _to_bytes(_packed(whole_N) if self.bits == 4 else whole_N)

    def decode(self, payload: bytes | memoryview, count: int) -> Tensor:
        """Whole numbers times scales."""
        _require_size(payload, self.size_bytes(count))
        end = -(-count // BLOCK) * _SCALE_BYTES
        payload = memoryview(payload)
        scale_K = _from_bytes(payload[:end], torch.bfloat16).float()
        if not bool(torch.isfinite(scale_K).all()):
            raise CorruptError("a scale of a block is not a finite number")
        whole_N = _from_bytes(payload[end:], torch.int8)
        if self.bits == 4:
            whole_N = _unpacked(whole_N, count)
        x_KS = _in_blocks(whole_N.float()) * scale_K[:, None]
        return x_KS.view(-1)[:count]


CODECS: Mapping[Wire, Codec] = {
    codec.name: codec
    for codec in (Fp32Codec(), Bf16Codec(), BlockCodec("int8", 8), BlockCodec("int4", 4))
}
"""By name."""


def _in_blocks(x_N: Tensor) -> Tensor:
    """(K, S), the last block filled up with zeros."""
    n_missing = -x_N.numel() % BLOCK
    if n_missing:
        x_N = torch.cat([x_N, x_N.new_zeros(n_missing)])
    return x_N.view(-1, BLOCK)


def _rounded_up(scale_K: Tensor) -> Tensor:
    """The next bf16 number that is not less; scales are not negative."""
    bits_K = scale_K.contiguous().view(torch.int32)
    return ((bits_K + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)


def _packed(whole_N: Tensor) -> Tensor:
    """Two numbers of four bits in a byte, the first of them low."""
    if whole_N.numel() % 2:
        whole_N = torch.cat([whole_N, whole_N.new_zeros(1)])
    low, high = whole_N.view(torch.uint8).view(-1, 2).unbind(1)
    return (low & 0x0F) | (high << 4)


def _unpacked(packed: Tensor, count: int) -> Tensor:
    """The numbers of four bits, with their signs."""
    # Shifted up and down again, so that the sign is carried along.
    low, high = (packed << 4) >> 4, packed >> 4
    return torch.stack([low, high], dim=1).view(-1)[:count]


def _to_bytes(x: Tensor) -> bytes:
    return x.view(torch.uint8).numpy().tobytes() if x.numel() else b""


def _from_bytes(payload: bytes | memoryview, dtype: torch.dtype) -> Tensor:
    # A copy: what was received is not written to, and may be not aligned.
    return (
        torch.frombuffer(bytearray(payload), dtype=dtype)
        if payload
        else torch.empty(0, dtype=dtype)
    )


def _require_size(payload: bytes | memoryview, size_bytes: int) -> None:
    if len(payload) != size_bytes:
        raise CorruptError(f"{len(payload)} bytes where {size_bytes} were to come")


def _require_finite(x_N: Tensor) -> None:
    if not bool(torch.isfinite(x_N).all()):
        raise TrainingDivergedError(
            "weights that are to travel are not finite",
            hint="lower the learning rate; what the other islands have is untouched",
        )
