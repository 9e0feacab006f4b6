"""How a 4-bit matrix lies in bytes: the sizes that planning and quantising share.

Needs no torch.
"""

from __future__ import annotations

from typing import Literal

GROUP: Literal[16] = 16
"""Weights that share a multiplier; docs/log.md compares other sizes."""


def padded(n_inputs: int) -> int:
    """Inputs filled up so that groups come in pairs and share bytes."""
    return -(-n_inputs // (2 * GROUP)) * 2 * GROUP


def row_bytes(n_inputs: int) -> int:
    """Two codes a byte and two multipliers a byte; the row's scale is not in it."""
    return padded(n_inputs) // 2 + padded(n_inputs) // GROUP // 2
