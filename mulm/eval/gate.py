"""The gate: decides from measurements alone whether a model may take an alias.

Called by `jobs.evaluate` and by promotion over HTTP. Pure, so that a promotion can be explained and
repeated.
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


def judge_beside(candidate: float, current: float, max_worse_percent: float) -> Verdict:
    """A model that predicts the same text worse than the one whose place it takes is not for use.

    Args:
        candidate: Its bits per byte.
        current: Those of the model that is used now.
        max_worse_percent: How many more bits are let through.
    """
    passes = candidate <= current * (1.0 + max_worse_percent / 100.0)
    change = 100.0 * (candidate / current - 1.0)
    allowed = f", {max_worse_percent:g} % worse is let through" if max_worse_percent else ""
    return Verdict(
        passes, f"{candidate:.3f} bits per byte beside {current:.3f} ({change:+.2f} %){allowed}"
    )
