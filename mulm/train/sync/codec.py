"""The contract of codecs: how numbers travel between islands.

Called by the rounds of DiLoCo, on both sides of a link; `codecs` has the implementations.
Invariants: encoding is deterministic and keeps no state; both sides of a link decode the same bytes
to the same numbers, bit for bit; what a codec rounds away is the caller's to send later. Shape
letters: N numbers.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

Wire = Literal["fp32", "bf16", "int8", "int4"]
"""The names of the codecs, in the order of their size."""


class Codec(Protocol):
    """Numbers to bytes and back."""

    @property
    def name(self) -> Wire:
        """Which it is; both sides of a link use the same."""

    def size_bytes(self, count: int) -> int:
        """What `count` numbers take, all overhead included."""

    def encode(self, x_N: Tensor) -> bytes:
        """Encode fp32 numbers that lie on the CPU.

        Raises:
            TrainingDivergedError: a number is not finite.
        """

    def decode(self, payload: bytes | memoryview, count: int) -> Tensor:
        """The fp32 numbers that `encode` was given, up to its rounding.

        Raises:
            CorruptError: the payload is not one of `count` numbers.
        """
