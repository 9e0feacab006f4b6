"""Moments: the running averages that an optimizer keeps, in fp32, bf16 or 8 bits.

Made and stepped by `optim`. Invariant: all of a moment lies in the tensors that `tensors` names,
and writing is a pure function of value and step, so a checkpoint is a copy and a resume is exact.

Eight bits: blocks of 256 numbers share one fp32 scale, their largest. A code is the root of the
share in the largest, so that small numbers get finer steps (block-wise codes: Dettmers et al.,
2021; the map here is a plain power). An average that moves by less than half a step would stand
still for ever: so codes are rounded at a threshold that walks from step to step over (0, 1) by the
golden ratio, which rounds up as often as the remainder says, without random numbers.

Offloaded, a moment lies in the memory of the CPU (pinned, beside a GPU) and comes to the device of
its parameter slice by slice, where the arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mulm.train.optimizer_config import STATE_BLOCK, StateDtype, is_coded

_GOLDEN = 0.6180339887498949


class Moment:
    """One average with the shape of its parameter, read and written in flat slices."""

    def __init__(
        self, like: Tensor, dtype: torch.dtype = torch.float32, *, is_offloaded: bool = False
    ) -> None:
        self._device, self._is_offloaded = like.device, is_offloaded
        self.value = _zeros(like.shape, dtype, like.device, is_offloaded)

    def read(self, part: slice) -> Tensor:
        """Numbers of a flat slice in fp32: the live ones where they are kept so, else a copy."""
        return self._brought(self.value.view(-1)[part]).float()

    def write(self, part: slice, value_N: Tensor, _step: int) -> None:
        """Keep what `read` gave, changed."""
        if self._is_offloaded or self.value.dtype != torch.float32:
            self.value.view(-1)[part] = value_N

    def live(self, part: slice) -> Sequence[Tensor]:
        """The tensors in which `write` keeps that slice."""
        return (self.value.view(-1)[part],)

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors by suffix of their name."""
        return {"": self.value}

    def _brought(self, kept: Tensor) -> Tensor:
        """On the device where it is needed; a copy where it is kept elsewhere."""
        return kept.to(self._device, copy=True) if self._is_offloaded else kept


class CodedMoment(Moment):
    """Eight bits a number. Slices begin at a multiple of `STATE_BLOCK`.

    Shape letters: M blocks, E numbers of a block.
    """

    def __init__(self, like: Tensor, *, is_square: bool, is_offloaded: bool = False) -> None:
        self._device, self._is_offloaded = like.device, is_offloaded
        n_blocks = -(-like.numel() // STATE_BLOCK)
        dtype, self._levels, self._power = (
            (torch.uint8, 255, 4) if is_square else (torch.int8, 127, 2)
        )
        make = partial(_zeros, device=like.device, is_offloaded=is_offloaded)
        self.code_ME = make((n_blocks, STATE_BLOCK), dtype)
        self.scale_M1 = make((n_blocks, 1), torch.float32)

    def read(self, part: slice) -> Tensor:
        """Decode a copy."""
        blocks = _blocks(part)
        share_ME = self._brought(self.code_ME[blocks]).float().div_(self._levels)
        power_ME = share_ME.abs().pow_(self._power - 1).mul_(share_ME)
        power_ME.mul_(self._brought(self.scale_M1[blocks]))
        return power_ME.view(-1)[: part.stop - part.start]

    def write(self, part: slice, value_N: Tensor, step: int) -> None:
        """Encode; a square that is not zero never becomes zero, since one divides by it."""
        blocks = _blocks(part)
        n_missing = -len(value_N) % STATE_BLOCK
        value_ME = functional.pad(value_N, (0, n_missing)).view(-1, STATE_BLOCK)
        scale_M1 = value_ME.abs().amax(dim=1, keepdim=True)
        self.scale_M1[blocks] = scale_M1
        code_ME = (value_ME / scale_M1.clamp_(min=1e-38)).abs_().sqrt_()
        code_ME = code_ME.sqrt_() if self._power == 4 else code_ME
        code_ME.mul_(self._levels).add_(_thresholds(step, value_N.device)).floor_()
        if self.code_ME.dtype == torch.uint8:
            code_ME.clamp_(min=1, max=self._levels)
        else:
            code_ME.clamp_(max=self._levels).copysign_(value_ME)
        self.code_ME[blocks] = code_ME.to(self.code_ME.dtype)

    def live(self, part: slice) -> Sequence[Tensor]:
        """Codes and scales of its blocks."""
        blocks = _blocks(part)
        return self.code_ME[blocks], self.scale_M1[blocks]

    def tensors(self) -> dict[str, Tensor]:
        """Codes, and the scale of each block."""
        return {"": self.code_ME, "_scale": self.scale_M1}


def make_moment(
    like: Tensor, dtype: StateDtype, *, is_square: bool = False, is_offloaded: bool = False
) -> Moment:
    """A moment of zeros; small tensors keep fp32 instead of codes."""
    if dtype == "int8" and is_coded(like.numel()):
        return CodedMoment(like, is_square=is_square, is_offloaded=is_offloaded)
    number = torch.bfloat16 if dtype == "bf16" else torch.float32
    return Moment(like, number, is_offloaded=is_offloaded)


def named_tensors(prefix: str, moments: Mapping[str, Moment]) -> dict[str, Tensor]:
    """The live tensors of moments that belong to parameters, by name."""
    return {
        f"{prefix}{suffix}.{name}": tensor
        for name, moment in moments.items()
        for suffix, tensor in moment.tensors().items()
    }


def _zeros(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, is_offloaded: bool
) -> Tensor:
    if not is_offloaded:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")


def _blocks(part: slice) -> slice:
    assert part.start % STATE_BLOCK == 0
    return slice(part.start // STATE_BLOCK, -(-part.stop // STATE_BLOCK))


def _thresholds(step: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1), one for each place of a block, others at the next step."""
    places_E = torch.arange(STATE_BLOCK, dtype=torch.float64, device=device)
    return (places_E + step).mul_(_GOLDEN).frac_().float()
