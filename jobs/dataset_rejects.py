"""What was dropped of a version, why, and what repeats what.

Called by `mulm data rejects`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.dataset_preview import heading
from jobs.dataset_shelf import DatasetVersion, Shelf
from jobs.dataset_words import bar_lines
from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.preview import Shown, choose, shown
from mulm.data.stats import Bar
from mulm.errors import UnknownNameError, nearest
from mulm.terminal_text import harmless

_SHOWN_CHARS = 400


def rejects(
    shelf: Shelf, found: DatasetVersion, reason: str | None, n: int, seed: int = 0
) -> dict[str, Any]:
    """Counts by reason, and up to `n` samples of each reason or of the one that was asked for.

    Raises:
        NotFoundError: the version's documents are not here.
        UnknownNameError: nothing was dropped for that reason.
    """
    corpus = shelf.corpus(found)
    counts = corpus.decisions.counts()
    reasons = {name: k for name, k in counts.items() if name not in (TRAIN, VALIDATION)}
    if reason is not None and reason not in reasons:
        raise UnknownNameError(
            f"{found.ref} has no rejects for {reason!r}", hint=nearest(reason, reasons)
        )
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    samples = [
        sample
        for name in ([reason] if reason else ordered)
        for sample in _samples(corpus, name, n, seed)
    ]
    return {
        "dataset": found.ref,
        "documents": sum(counts.values()),
        "rejected": sum(reasons.values()),
        "reasons": ordered,
        "samples": samples,
    }


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


def _samples(corpus: Corpus, reason: str, n: int, seed: int) -> list[dict[str, Any]]:
    samples = shown(corpus, choose(corpus, (reason,), n, seed))
    originals = corpus.decisions.originals
    numbers = [originals[s.number] for s in samples if s.number in originals]
    by_number = {found.number: found for found in shown(corpus, numbers)}
    return [
        _told(sample)
        | {
            "original": _told(by_number[originals[sample.number]])
            if sample.number in originals
            else None
        }
        for sample in samples
    ]


def _told(document: Shown) -> dict[str, Any]:
    return asdict(document) | {
        "text": document.text[:_SHOWN_CHARS],
        "left": max(0, len(document.text) - _SHOWN_CHARS),
    }


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in harmless(text).split("\n"))
