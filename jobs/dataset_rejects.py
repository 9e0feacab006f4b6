"""What was dropped of a version, why, and what repeats what.

Called by `mulm data rejects`, with what `mulm.data.views` tells.
"""

from __future__ import annotations

from typing import Any

from jobs.dataset_preview import heading
from jobs.dataset_words import bar_lines
from mulm.data.stats import Bar
from mulm.terminal_text import harmless


def reject_lines(result: dict[str, Any]) -> list[str]:
    """What `rejects` found, for a person."""
    share = result["rejected"] / max(1, result["documents"])
    lines = [
        f"{result['dataset']}: {result['rejected']:,} of {result['documents']:,} documents"
        f" rejected ({share:.1%})"
    ]
    lines += bar_lines([Bar(name, count) for name, count in result["reasons"].items()])
    for sample in result["samples"]:
        lines += ["", heading(sample), harmless(sample["text"]) or "(no text)"]
        if original := sample["original"]:
            lines += [f"    repeats {heading(original)[4:]}", _indented(original["text"])]
    return lines


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in harmless(text).split("\n"))
