"""What a stage of the journey has made, in a line for a person.

Called by `jobs.journey`. Pure.
"""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]


def dataset_words(result: Result) -> str:
    """A dataset that was built."""
    return f"{result['dataset']}: {result['train_tokens']:,} tokens to train on"


def model_words(result: Result) -> str:
    """A model that was trained."""
    return f"{result['model']}: {result['parameters'] / 1e6:.1f} M parameters"


def scores_words(result: Result) -> str:
    """What an evaluation found."""
    if "bits_per_byte" not in result:
        return f"{result['model']}: {', '.join(result['suites'])}"
    return (
        f"{result['bits_per_byte']:.3f} bits per byte on held-out text,"
        f" xz -9e needs {result['xz_bits_per_byte']:.3f}"
    )


def smaller_words(result: Result) -> str:
    """A model that was made smaller."""
    size = (
        f"{result['size_bytes'] / 1e6:.1f} MB, {result['share']:.0%} of {result['source']} in bf16"
    )
    if result["to"] == "pruned":
        parameters = f"{result['parameters'] / 1e6:.1f} M parameters"
        size = f"{parameters}, {result['share']:.0%} of {result['source']}"
    return f"{result['model']}: {size}"
