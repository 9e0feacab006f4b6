"""Two dataset versions side by side.

Called by `mulm data diff`; what differs is told by `mulm.data.views`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.dataset_words import one_line, size_text

_FILES_SHOWN = 5


def diff_lines(result: dict[str, Any]) -> list[str]:
    """What `diff` found, for a person."""
    before, after = result["before"], result["after"]
    if result["is_same"]:
        return [f"{before} and {after} are the same version"]
    lines = [f"{before} -> {after}", "settings" if result["settings"] else "settings: the same"]
    lines += [
        f"  {change['name']}: {_value(change['before'])} -> {_value(change['after'])}"
        for change in result["settings"]
    ]
    lines += _file_lines(result["files"])
    lines += ["counts"] + [
        f"  {name}: {_count(a)} -> {_count(b)}"
        for name, (a, b) in result["counts"].items()
        if a != b
    ]
    lines += _document_lines(result["documents"], result["samples"])
    sizes = " and ".join(size_text(size) for size in result["size_bytes"])
    return [*lines, f"on disk {sizes}, {size_text(result['shared_bytes'])} of it shared"]


def _file_lines(files: dict[str, Sequence[str]]) -> list[str]:
    lines = []
    for what, names in files.items():
        if names:
            shown_names = ", ".join(one_line(name, 40) for name in names[:_FILES_SHOWN])
            more = f" and {len(names) - _FILES_SHOWN} more" if len(names) > _FILES_SHOWN else ""
            lines.append(f"  {len(names)} {what}: {shown_names}{more}")
    return ["files", *lines] if lines else ["files: the same"]


def _document_lines(counts: dict[str, Any], samples: dict[str, Any]) -> list[str]:
    lines = ["documents", f"  {counts['same']:,} the same"]
    for change, count in counts["decided"].items():
        lines.append(f"  {count:,} decided otherwise: {change}")
    lines += [_sample(b, f"{a['decision']} -> {b['decision']}") for a, b in samples["decided"]]
    if counts["rewritten"]:
        lines.append(f"  {counts['rewritten']:,} at the same place with another text")
    lines += [_sample(b, f"{a['decision']} -> {b['decision']}") for a, b in samples["rewritten"]]
    for what, sign in (("added", "+"), ("removed", "-")):
        if by_decision := counts[what]:
            told = ", ".join(f"{name} {count:,}" for name, count in by_decision.items())
            lines.append(f"  {sum(by_decision.values()):,} {what} ({told})")
        lines += [_sample(sample, f"{sign} {sample['decision']}") for sample in samples[what]]
    return lines


def _sample(document: dict[str, Any], what: str) -> str:
    name = one_line(document["name"], 30)
    place = f"{document['source']}: {name} {document['part']}/{document['row']}"
    return f"      {what}  {place}  {one_line(document['text'], 60)!r}"


def _value(value: Any) -> str:
    return "not set" if value is None else one_line(str(value), 60)


def _count(value: float | None) -> str:
    return "none" if value is None else f"{value:,}"
