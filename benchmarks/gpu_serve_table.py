"""Rows of the table that `benchmarks.gpu_serve` prints: by plain steps, and with CUDA graphs.

Made and printed by `benchmarks.gpu_serve`. Invariant: what was not measured has an empty column or
says why, never a number.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB, MIB = 1 << 30, 1 << 20
_LONGEST_PROBLEM = 160

HEAD = (
    "| what | batch | tokens/s | ms a step | of bandwidth | of peak | with graphs, tokens/s"
    " | ms a step | of bandwidth | graphs MB | peak GB |"
)


@dataclass(frozen=True, slots=True)
class WithGraphs:
    """The same with steps that are recorded, or why there are none."""

    tokens_per_s: float = 0.0
    step_s: float = 0.0
    of_bandwidth: float | None = None
    n_bytes: int = 0
    """What graphs take beside weights and pages."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured, or why it was not."""

    what: str
    batch: int
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    of_bandwidth: float | None = None
    """What reading all weights once a step takes of the measured bandwidth; decoding only."""
    of_peak: float | None = None
    """Operations of the measured peak; prompts only."""
    graphs: WithGraphs | None = None
    """None where steps are not ours."""
    peak_bytes: int | None = None
    error: str = ""


def line_of(row: Row) -> str:
    """A row of the Markdown table."""
    if row.error:
        return f"| {row.what} | {row.batch} | {row.error} |{' |' * 8}"
    plain = f"{_speed(row.tokens_per_s, row.step_s, row.of_bandwidth)} | {_share(row.of_peak)}"
    peak = "not counted" if row.peak_bytes is None else f"{row.peak_bytes / GIB:.2f}"
    return f"| {row.what} | {row.batch} | {plain} | {_with_graphs(row.graphs)} | {peak} |"


def _with_graphs(found: WithGraphs | None) -> str:
    if found is None:
        return "| | |"
    if found.problem:
        return f"none: {found.problem.replace('|', '/')[:_LONGEST_PROBLEM]} | | |"
    speed = _speed(found.tokens_per_s, found.step_s, found.of_bandwidth)
    return f"{speed} | {found.n_bytes / MIB:.0f}"


def _speed(tokens_per_s: float, step_s: float, of_bandwidth: float | None) -> str:
    return f"{tokens_per_s:,.0f} | {1e3 * step_s:.2f} | {_share(of_bandwidth)}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
