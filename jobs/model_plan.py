"""`mulm model plan`: what a size of model weighs, and on which cards it trains.

Called by `jobs.cli_model`. Nothing is measured here: the numbers come from `mulm.model.plan` and
`mulm.train.plan`, and need neither torch nor a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mulm.errors import ConfigError
from mulm.model.plan import sizes
from mulm.model.presets import preset
from mulm.train.plan import CARDS_GB, options

LARGEST_VOCAB_SIZE = 1 << 22
LONGEST_ROW = 1 << 20
"""Four times the vocabulary and eight times the window of what small models are published with."""


def make_plan(size: str, vocab_size: int, seq_len: int | None) -> dict[str, Any]:
    """The plan as plain values.

    Raises:
        UnknownNameError: no such size; the hint names the nearest.
        ConfigError: a number is not positive, or beyond what any model has.
    """
    for name, value, most in (
        ("vocab-size", vocab_size, LARGEST_VOCAB_SIZE),
        ("seq-len", seq_len, LONGEST_ROW),
    ):
        if value is not None and not 1 <= value <= most:
            wrong = "small" if value < 1 else "large"
            raise ConfigError(f"--{name} {value} is too {wrong}", hint=f"use 1 to {most}")
    shape = preset(size, vocab_size)
    seq_len = seq_len or min(shape.max_seq_len, 1024)
    shape = shape.model_copy(update={"max_seq_len": max(shape.max_seq_len, seq_len)})
    return {
        "size": size,
        "shape": shape.model_dump(),
        "seq_len": seq_len,
        **asdict(sizes(shape)),
        "training": [asdict(option) for option in options(shape, seq_len)],
    }


def describe(plan: dict[str, Any]) -> Iterator[str]:
    """The plan as lines for a terminal."""
    shape = plan["shape"]
    yield (
        f"{plan['size']}: {plan['n_parameters'] / 1e6:.1f} M parameters,"
        f" {shape['n_layers']} layers of width {shape['d_model']},"
        f" vocabulary {shape['vocab_size']}, window {shape['max_seq_len']}"
    )
    yield "on disk (MB)"
    for name, n_bytes in plan["bytes_by_format"].items():
        yield f"  {name:<10} {n_bytes / 1e6:9.1f}"
    yield f"cache: {plan['kv_bytes_per_token'] / 1024:.0f} KiB a token in bf16"
    yield (
        f"training in bf16, rows of {plan['seq_len']} tokens: memory with one row at once, and"
        " the most rows at once by card (- does not fit)"
    )
    cards = "".join(f"{f'{card} GB':>8}" for card in CARDS_GB)
    yield f"  {'optimizer':<9} {'states':<8} {'blocks':<9} {'GB':>6}{cards}"
    for option in plan["training"]:
        yield _describe_option(option)
    yield "CPU: states in the CPU's memory (offload), which a run chooses where nothing else fits"
    yield "by arithmetic, not measured on a GPU; a tenth of each card is left free"


def _describe_option(option: dict[str, Any]) -> str:
    blocks = "again" if option["is_checkpointed"] else "kept"
    rows = "".join(f"{option['rows_by_card_gb'][card] or '-':>8}" for card in CARDS_GB)
    size_gb = option["one_row_bytes"] / (1 << 30)
    states = option["state_dtype"] + (" CPU" if option["is_offloaded"] else "")
    return f"  {option['optimizer']:<9} {states:<8} {blocks:<9} {size_gb:6.2f}{rows}"
