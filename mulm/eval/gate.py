"""The gate: decides from measurements alone whether a model may take an alias.

Called by `jobs.evaluate`. Pure, so that a promotion can be explained and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the model passes, and why."""

    passes: bool
    reason: str


def judge(bits_per_byte: float, xz_bits_per_byte: float) -> Verdict:
    """A model that predicts held-out text no better than `xz -9e` packs it is not for use."""
    passes = bits_per_byte < xz_bits_per_byte
    relation = "fewer" if passes else "not fewer"
    numbers = f"{bits_per_byte:.3f} bits per byte are {relation} than {xz_bits_per_byte:.3f}"
    return Verdict(passes, f"{numbers} of xz -9e")
