"""Rows of the table that `benchmarks.gpu_train` prints: one for each way to train a size on a card.

Pure. Invariant: every line has as many cells as the head, also that of a row that failed.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
HEAD = (
    "| size | card GB | optimizer | states | blocks | rows | first step s | ms a step | tokens/s"
    " | MFU measured peak | MFU known peak | peak GB | plan GB | plan / peak | attention"
    " | compiled |"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train one size: what is measured of it, or why nothing is."""

    size: str
    card_gb: float | None
    """None is the whole card."""
    optimizer: str = ""
    state_dtype: str = ""
    is_checkpointed: bool = False
    rows: int = 0
    kernel: str = ""
    is_compiled: bool = False
    first_step_s: float = 0.0
    step_s: float = 0.0
    tokens_per_s: float = 0.0
    mfu_measured: float = 0.0
    mfu_known: float | None = None
    peak_bytes: int | None = None
    """None on a CPU, where nobody counts."""
    planned_bytes: int = 0
    error: str = ""


def line_of(row: Row) -> str:
    """A row of the Markdown table."""
    card = "all" if row.card_gb is None else f"{row.card_gb:g}"
    way = f"{row.optimizer} | {row.state_dtype} | {'again' if row.is_checkpointed else 'kept'}"
    if row.error:
        way = way if row.optimizer else "- | - | -"
        return f"| {row.size} | {card} | {way} | {row.rows} | {row.error} |{' |' * 9}"
    known = "unknown" if row.mfu_known is None else f"{row.mfu_known:.1%}"
    peak, share = "not counted", "-"
    if row.peak_bytes:
        peak = f"{row.peak_bytes / GIB:.2f}"
        share = f"{row.planned_bytes / row.peak_bytes:.3f}"
    return (
        f"| {row.size} | {card} | {way} | {row.rows} | {row.first_step_s:.2f}"
        f" | {row.step_s * 1e3:.0f} | {row.tokens_per_s:,.0f} | {row.mfu_measured:.1%} | {known}"
        f" | {peak} | {row.planned_bytes / GIB:.2f} | {share} | {row.kernel}"
        f" | {'yes' if row.is_compiled else 'no'} |"
    )
