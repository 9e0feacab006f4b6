"""What is served: deployments and their engines, as a server tells them.

Called by `mulm ps`. Invariant: what a server does not tell is left open, never made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.dataset_words import one_line, size_text
from jobs.remote import Remote
from mulm.errors import NotFoundError

Deployment = Mapping[str, Any]
_HEAD = ("name", "model", "state", "engine", "device", "dtype", "memory", "tokens/s", "running",
         "waiting", "kv")  # fmt: skip
_N_LEFT = 6
"""Columns of words, which begin on the left; the others are numbers."""


def deployments(remote: Remote) -> list[dict[str, Any]]:
    """All deployments of a server with their engines.

    Of a server that has no deployments yet, the names of what it serves.
    """
    try:
        return list(remote.items("deployments"))
    except NotFoundError:
        served = remote.get("/v1/models")["data"]
        return [{"id": one["id"], "model": one.get("root") or one["id"]} for one in served]


def listing_lines(found: Sequence[Deployment]) -> list[str]:
    """A table: a line for each deployment, and one for each of its engines beneath it."""
    if not found:
        return []
    rows = [_HEAD, *(row for one in found for row in _rows(one))]
    used = [k for k in range(len(_HEAD)) if any(row[k] for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in used}
    return [
        "  ".join(
            row[k].ljust(widths[k]) if k < _N_LEFT else row[k].rjust(widths[k]) for k in used
        ).rstrip()
        for row in rows
    ]


def _rows(one: Deployment) -> Iterator[tuple[str, ...]]:
    replicas = one.get("replicas") or []
    models = [_model(part, len(one.get("traffic") or [])) for part in one.get("traffic") or []]
    state = " ".join(str(one.get(key) or "") for key in ("status", "message")).strip()
    told = (one_line(str(one["id"])), one_line(", ".join(models) or str(one.get("model") or "")))
    sums = [sum(each.get(key) or 0 for each in replicas) for key in ("running", "waiting")]
    speed = sum(each.get("tokens_per_s") or 0.0 for each in replicas)
    totals = (f"{speed:,.0f}", *map(str, sums)) if replicas else ("", "", "")
    yield (*told, one_line(state, 60), str(len(replicas) or ""), "", "", "", *totals, "")
    for each in replicas:
        yield (
            "", "", f"  {one_line(str(each.get('state') or ''), 30)}",
            one_line(str(each.get("id") or "")), one_line(_device(each)),
            one_line(str(each.get("dtype") or "")),
            size_text(each["memory_bytes"]) if each.get("memory_bytes") else "",
            _number(each.get("tokens_per_s"), "{:,.0f}"), _number(each.get("running"), "{}"),
            _number(each.get("waiting"), "{}"), _number(each.get("kv_use"), "{:.0%}"),
        )  # fmt: skip


def _model(part: Mapping[str, Any], n_parts: int) -> str:
    weight = f" {part['weight']:g} %" if n_parts > 1 and part.get("weight") is not None else ""
    return f"{part.get('model')}{weight}"


def _device(replica: Mapping[str, Any]) -> str:
    return " ".join(str(replica[key]) for key in ("node", "device") if replica.get(key))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
