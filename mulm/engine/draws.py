"""Random numbers that are a pure function of who asks for them, and drawing with them.

Used by the sampler. There is no state: the numbers for a request's seed, a choice and a position
are always the same, so an answer does not depend on what runs beside it, on having been interrupted
or on being verified instead of generated. The mixing is SplitMix64's (Steele, Lea and Flood, 2014).

A token is drawn by two races: among the blocks of 256 token ids, then among the tokens of the one
that won. In a race each runner has an exponentially distributed time of its own, shortened by its
weight, so the weights are the odds (the Gumbel-max trick). 450 numbers do instead of one for each
of 49,152 tokens; and unlike the inversion of a cumulative distribution, two distributions that
differ little mostly draw the same token with the same numbers, which is what a draft model needs.

Shape letters: R rows, X numbers of a row, N runners.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 256
"""Token ids that race together."""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def exponentials(asking: Sequence[tuple[int, int, int]], n_numbers: int) -> Tensor:
    """Exponentially distributed numbers (R, X) for each (seed, choice, position), fp64."""
    states = [_signed(_state(*who)) for who in asking]
    steps_X = torch.arange(1, n_numbers + 1) * _signed(_GOLDEN)
    bits_RX = torch.tensor(states)[:, None] + steps_X
    bits_RX ^= _shifted(bits_RX, 30)
    bits_RX *= _signed(_FIRST)
    bits_RX ^= _shifted(bits_RX, 27)
    bits_RX *= _signed(_SECOND)
    bits_RX ^= _shifted(bits_RX, 31)
    uniform_RX = _shifted(bits_RX, 12).double().add_(0.5).mul_(2.0**-52)
    return uniform_RX.log_().neg_()


def race(weights_RN: Tensor, times_RN: Tensor) -> Tensor:
    """Who wins each row; nobody whose weight is 0, unless all are."""
    return (weights_RN / times_RN).argmax(dim=-1)


def _shifted(bits: Tensor, n: int) -> Tensor:
    """Shifted to the right, with zeros coming in."""
    return (bits >> n).bitwise_and_(2 ** (64 - n) - 1)


def _state(seed: int, index: int, position: int) -> int:
    state = _mix(seed & _MASK)
    state = _mix((state + _GOLDEN * (index + 1)) & _MASK)
    return _mix((state + _GOLDEN * (position + 1)) & _MASK)


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    """The 64 bits as torch's integers have them."""
    return x - 2**64 if x >> 63 else x
