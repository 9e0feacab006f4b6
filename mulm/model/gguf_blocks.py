"""Block types of GGUF: how a stretch of numbers is packed into bytes.

Called by `gguf_model`. Pure; no numpy. Invariant: the bytes are those of llama.cpp's reference
code for the same fp32 numbers. Shape letters: R blocks, I values of a block, J half of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mulm.errors import DataError
from mulm.model.weights import tensor_bytes

_PIECE_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class BlockType:
    """A packing: `n_values` numbers of a row become `n_bytes` bytes."""

    name: str
    code: int
    """The number of the type in tensor descriptions."""
    file_code: int
    """The number of a file whose matrices are of this type."""
    n_values: int
    n_bytes: int
    pack: Callable[[Tensor], Tensor]
    """(R, I) fp32 to a tensor of R * n_bytes bytes."""

    def size_bytes(self, n_values: int) -> int:
        """Bytes of that many numbers."""
        return n_values // self.n_values * self.n_bytes

    def encode(self, tensor: Tensor, name: str) -> Iterator[bytes]:
        """The bytes of a tensor, some millions of numbers at a time.

        Raises:
            DataError: a number does not fit; the message tells of which tensor.
        """
        step = _PIECE_VALUES // self.n_values * self.n_values
        for piece in torch.split(tensor.reshape(-1), step):
            packed = self.pack(piece.float().view(-1, self.n_values))
            if packed.is_floating_point() and not bool(packed.isfinite().all()):
                raise DataError(
                    f"{name!r} holds numbers beyond the range of {self.name}",
                    hint="export as bf16, which has the range of fp32",
                )
            yield tensor_bytes(packed)


def pack_q8_0(x_RI: Tensor) -> Tensor:
    """32 numbers as one fp16 scale and 32 signed bytes."""
    scale_R1 = x_RI.abs().amax(1, keepdim=True) / 127
    scaled_RI = x_RI * _inverse(scale_R1)
    magnitude_RI = scaled_RI.abs()
    floor_RI = magnitude_RI.floor()
    # Halves go away from zero, as roundf does.
    rounded_RI = scaled_RI.sign() * (floor_RI + (2 * (magnitude_RI - floor_RI)).floor())
    return _join(scale_R1, rounded_RI.to(torch.int8).view(torch.uint8))


def pack_q4_0(x_RI: Tensor) -> Tensor:
    """32 numbers as one fp16 scale and 32 times four bits, zero at 8; the largest becomes 0."""
    at_R1 = x_RI.abs().argmax(1, keepdim=True)
    scale_R1 = x_RI.gather(1, at_R1) / -8
    codes_RI = (x_RI * _inverse(scale_R1) + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    low_RJ, high_RJ = codes_RI.chunk(2, dim=1)
    return _join(scale_R1, low_RJ | (high_RJ << 4))


def _inverse(scale_R1: Tensor) -> Tensor:
    return torch.where(scale_R1 == 0, 0.0, 1 / scale_R1)


def _join(scale_R1: Tensor, codes: Tensor) -> Tensor:
    scale_R1 = scale_R1.to(torch.float16)
    if not bool(scale_R1.isfinite().all()):
        return scale_R1  # told by `encode` as a number that does not fit
    return torch.cat([scale_R1.view(torch.uint8), codes], dim=1)


def _as(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x_RI: x_RI.to(dtype)


F32 = BlockType("f32", 0, 0, 1, 4, _as(torch.float32))
F16 = BlockType("f16", 1, 1, 1, 2, _as(torch.float16))
BF16 = BlockType("bf16", 30, 32, 1, 2, _as(torch.bfloat16))
Q8_0 = BlockType("q8_0", 8, 7, 32, 34, pack_q8_0)
Q4_0 = BlockType("q4_0", 2, 2, 32, 18, pack_q4_0)

BLOCK_TYPES: dict[str, BlockType] = {kind.name: kind for kind in (F32, F16, BF16, Q8_0, Q4_0)}
