"""What `benchmarks.serve` measures, its results in a file, and the tables made from them.

Pure but for reading and writing that file. Invariant: a cell's numbers for one engine come from one
call; the speed of decoding leaves the first token out, which `first_s` of the same prompts gives.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serve_shapes import matrix_bytes
from mulm.model.config import MicroLMConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of order."""

    name: str
    rows: int
    n_prompt: int
    n_new: int

    def speed(self, first_s: float, whole_s: float) -> float:
        """Tokens a second: of the prompt where one token is asked for, else after the first."""
        if self.n_new == 1:
            return self.rows * self.n_prompt / first_s
        return self.rows * (self.n_new - 1) / max(whole_s - first_s, 1e-9)

    def whole_speed(self, whole_s: float) -> float:
        """New tokens a second from the order to the last token."""
        return self.rows * self.n_new / whole_s


CELLS = {
    cell.name: cell
    for cell in (
        Cell("decode-1", 1, 128, 128),
        Cell("decode-8", 8, 128, 128),
        Cell("decode-32", 32, 128, 128),
        Cell("prefill-1024", 1, 1024, 1),
        Cell("first-128", 1, 128, 1),
        Cell("empty", 1, 16, 64),
        Cell("context-4096", 1, 4096, 64),
        Cell("agree", 64, 24, 1),
    )
}


@dataclass(slots=True)
class Results:
    """All that was measured on one shape."""

    shape: str
    samples: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    """By cell and engine: seconds to the first token of all rows, and to the last."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path | None, shape: str) -> Results:
        """What the file knows of the shape."""
        if path is None or not path.exists():
            return cls(shape)
        return cls(shape, **json.loads(path.read_text()).get(shape, {}))

    def save(self, path: Path | None) -> None:
        """Write the file, other shapes in it as they were."""
        if path is None:
            return
        everything = json.loads(path.read_text()) if path.exists() else {}
        names = ("samples", "memory", "start_s", "answers", "bandwidths", "peaks")
        everything[self.shape] = {name: getattr(self, name) for name in names}
        path.write_text(json.dumps(everything, indent=1))

    def forget(self, cell: str, name: str) -> None:
        """Drop what an earlier call measured."""
        self.samples.setdefault(cell, {})[name] = []

    def note(self, cell: str, name: str, first_s: float, whole_s: float) -> None:
        """Keep one round."""
        self.samples[cell][name].append([first_s, whole_s])

    def note_answers(self, answers: dict[str, list[int]]) -> None:
        """Keep the first tokens of many prompts, by engine."""
        self.answers |= answers

    def note_machine(self, bandwidth: float, peak: float) -> None:
        """Keep what the machine does at best."""
        self.bandwidths.append(bandwidth)
        self.peaks.append(peak)

    def note_start(self, name: str, seconds: float) -> None:
        """Keep the time from starting the process to its first token."""
        self.start_s[name] = seconds

    def note_memory(self, name: str, told: dict[str, Any]) -> None:
        """Keep the largest peak of all calls."""
        kept = self.memory.setdefault(name, {"peak": 0, "resident": 0})
        for key in kept:
            kept[key] = max(kept[key], told.get(key, 0))

    def median(self, cell: str, name: str) -> tuple[float, float] | None:
        """Median seconds to the first token and to the last."""
        rounds = self.samples.get(cell, {}).get(name)
        if not rounds:
            return None
        first, whole = zip(*rounds, strict=True)
        return statistics.median(first), statistics.median(whole)

    def speed(self, cell: str, name: str) -> float | None:
        """Median tokens a second."""
        found = self.median(cell, name)
        return CELLS[cell].speed(*found) if found else None

    @property
    def engines(self) -> list[str]:
        """All that were measured in any cell, in order."""
        return list(self.start_s)


def print_tables(results: Results, shape: MicroLMConfig) -> None:
    """Speeds, then shares and ratios."""
    bandwidth = statistics.median(results.bandwidths)
    about = (
        f"{results.shape}: {shape.n_parameters:,} parameters; memory is read at"
        f" {_range(results.bandwidths, 1e9)} GB/s, bf16 products reach"
        f" {_range(results.peaks, 1e12)} TFLOP/s (median, least to most)"
    )
    print(about)
    print()
    print("| | decode 1 | 8 | 32 | whole 1 | 8 | 32 | prefill | first ms |", end="")
    print(" of bandwidth | 4,096 / empty | peak GB | start s | same token |")
    print(f"|{'---|' * 14}")
    for name in results.engines:
        print(f"| {name} | {' | '.join(_row(results, shape, name, bandwidth))} |")
    print()
    for line in ratios(results):
        print(line)


def ratios(results: Results) -> list[str]:
    """Ours in bf16 beside the fastest peer in each cell."""
    lines = []
    for cell in CELLS:
        if cell in ("agree", "empty", "context-4096") or not results.speed(cell, "mulm"):
            continue
        peers = {
            name: speed
            for name in results.engines
            if not name.startswith("mulm") and (speed := results.speed(cell, name))
            if not name.endswith(("Q8_0", "Q4_0"))
        }
        if peers:
            best = max(peers, key=lambda name: peers[name])
            ours = results.speed(cell, "mulm") or 0.0
            lines.append(f"{cell}: {ours / peers[best]:.2f} of {best}")
    return lines


def _row(results: Results, shape: MicroLMConfig, name: str, bandwidth: float) -> list[str]:
    decoded = [_number(results.speed(f"decode-{n}", name)) for n in (1, 8, 32)]
    wholes = []
    for n in (1, 8, 32):
        found = results.median(f"decode-{n}", name)
        wholes.append(_number(CELLS[f"decode-{n}"].whole_speed(found[1]) if found else None))
    first = results.median("first-128", name)
    single = results.speed("decode-1", name)
    share = single * matrix_bytes(shape, _bytes_per_weight(name)) / bandwidth if single else None
    empty, long = results.speed("empty", name), results.speed("context-4096", name)
    peak = results.memory.get(name, {}).get("peak", 0)
    return [
        *decoded, *wholes,
        _number(results.speed("prefill-1024", name)),
        f"{first[0] * 1e3:.1f}" if first else "",
        f"{share:.0%}" if share else "",
        f"{empty / long:.2f}" if empty and long else "",
        f"{peak / 1e9:.2f}" if peak else "",
        f"{results.start_s[name]:.1f}",
        _agreement(results, name),
    ]  # fmt: skip


def _bytes_per_weight(name: str) -> float:
    """As stored: int4 with a scale for some weights; its embeddings, in 8 bits, are left apart."""
    if name.endswith(("int8", "Q8_0")):
        return 1.0
    return 0.5 if name.endswith(("int4", "Q4_0")) else 2.0


def _agreement(results: Results, name: str) -> str:
    """The share of prompts after which it says what our bf16 says."""
    ours, theirs = results.answers.get("mulm"), results.answers.get(name)
    if not ours or not theirs:
        return ""
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours):.0%}"


def _range(values: list[float], unit: float) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle / unit:.2f} ({least / unit:.2f} to {most / unit:.2f})"


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value else ""
