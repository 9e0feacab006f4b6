"""Random numbers that are a pure function of who asks for them.

Used by the sampler. There is no state: the number for a request's seed, a choice and a position is
always the same, so an answer does not depend on what runs beside it, on having been interrupted, or
on being verified instead of generated. The mixing is SplitMix64's (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    state = _mix(seed & _MASK)
    state = _mix((state + _GOLDEN * (index + 1)) & _MASK)
    state = _mix((state + _GOLDEN * (position + 1)) & _MASK)
    return (state >> 11) * 2.0**-53


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
