"""Lists and descriptions of dataset versions for a person.

Called by `mulm data ls|show|lineage`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.dataset_words import age_text, one_line, size_text, table_lines
from mulm.data.shelf import Listed
from mulm.lineage import Lineage, Relative

_HEAD = ("version", "tokens", "documents", "size", "age", "sources")


def listing_lines(rows: Sequence[Listed], now_s: float) -> list[str]:
    """A table with a line for each version; nothing if there are none."""
    if not rows:
        return []
    return table_lines([_HEAD, *(_cells(row, now_s) for row in rows)])


def description_lines(result: Mapping[str, Any]) -> list[str]:
    """What `mulm data show` says."""
    aliases = f" ({', '.join(result['aliases'])})" if result["aliases"] else ""
    lines = [f"{result['dataset']}{aliases}  {result['dataset_id']}"]
    lines += _counts("tokens", result["counts"]) + _counts("documents", result["document_counts"])
    for source in result["sources"]:
        lines.append(f"source     {_source(source)}")
    for role, rules in result["rules"].items():
        lines += [f"{role:<10} {name}: {value}" for name, value in _flat("", rules)]
    lines.append(f"tokenizer  {result['tokenizer_fingerprint']}")
    for role, parent in result["parents"].items():
        refs = f" {', '.join(parent['refs'])}" if parent["refs"] else ""
        lines.append(f"made from  {role} {parent['id']}{refs}")
    for role, files in result["files"].items():
        lines.append(f"files      {role}: {files['n']}, {size_text(files['size_bytes'])}")
    name = result["dataset"].partition("@")[0]
    lines.append(
        f"on disk    {size_text(result['size_bytes'])},"
        f" {size_text(result['shared_bytes'])} of it shared with other versions of {name}"
    )
    lines.append(f"licences   {one_line(', '.join(result['licences']), 200) or 'not stated'}")
    return [*lines, f"code       {result['code_version']}"]


def lineage_lines(found: Lineage) -> list[str]:
    """Ancestors above, the version between, descendants below, each as far in as it is away."""
    farthest = max((relative.distance for relative in found.ancestors), default=0)
    above = sorted(found.ancestors, key=lambda relative: -relative.distance)
    lines = [f"{'  ' * (farthest - relative.distance)}{_relative(relative)}" for relative in above]
    lines.append(f"{'  ' * farthest}{found.kind} {found.id}  {', '.join(found.refs)}  <-")
    lines += [
        f"{'  ' * (farthest + relative.distance)}{_relative(relative)}"
        for relative in found.descendants
    ]
    return [line.rstrip() for line in lines]


def _cells(row: Listed, now_s: float) -> tuple[str, ...]:
    name = row.ref + "".join(f" @{alias}" for alias in row.aliases)
    age = age_text(now_s - row.created_s)
    if row.damage:
        return (name, "", "", "", age, f"[{row.damage}] see `mulm data verify {row.ref}`")
    return (
        name,
        f"{row.tokens or 0:,}",
        "" if row.documents is None else f"{row.documents:,}",
        size_text(row.size_bytes or 0),
        age,
        one_line(", ".join(row.sources), 60),
    )


def _counts(what: str, counts: Mapping[str, float]) -> list[str]:
    told = ", ".join(f"{name} {value:,}" for name, value in counts.items())
    return [f"{what:<10} {told}"] if told else []


def _source(source: Mapping[str, Any]) -> str:
    weight = f", weight {source['weight']:g}" if source.get("weight") is not None else ""
    licence = f", {one_line(str(source['licence']), 60)}" if "licence" in source else ""
    return (
        f"{source['label']}: {source['documents']:,} documents, {source['rejected']:,} rejected"
        f"{weight}{licence}"
    )


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(prefix, one_line(str(value), 80))] if value not in (None, [], "") else []
    return [
        pair
        for key, inner in value.items()
        for pair in _flat(f"{prefix}.{key}" if prefix else key, inner)
    ]


def _relative(relative: Relative) -> str:
    kind = relative.kind or ("run" if relative.id.startswith("run_") else "not here:")
    return f"{kind} {relative.id}  {', '.join(relative.refs)}"
