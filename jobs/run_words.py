"""Runs for a person: the table of `ls`, the page of `show`, the lines of `logs`.

Called by `mulm runs`. Pure. Invariant: what came from a config, a corpus or a model is made
harmless before it is returned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.dataset_words import age_text, one_line, table_lines
from mulm.records import ENDED, Event
from mulm.runs.compare import flattened

_HEAD = ("run", "kind", "name", "phase", "progress", "age")
_LONG = 400
QUIET = frozenset({"metric", "progress", "sample"})
"""Kinds of events that have a verb of their own, or a bar."""


def listing_lines(rows: Sequence[Mapping[str, Any]], now_s: float) -> list[str]:
    """A table with a line for each run; nothing if there are none."""
    return table_lines([_HEAD, *(_cells(row, now_s) for row in rows)]) if rows else []


def description_lines(run: Mapping[str, Any], now_s: float) -> list[str]:
    """What `mulm runs show` says."""
    lines = [f"{run['run']}  {run['kind']} {one_line(run['name'])}", f"phase       {_phase(run)}"]
    if run["error"]:
        lines.append(f"error       [{run['error'].get('code')}] {_text(run['error'], 'message')}")
        lines += [f"hint        {text}" for text in [_text(run["error"], "hint")] if text]
    if run["progress"]:
        lines.append(f"progress    {progress_text(run['progress'], is_live=run['is_living'])}")
    lines += _pairs("result", run["result"] or {})
    if run["metrics"]:
        numbers = [f"{name} {number_text(value)}" for name, value in run["metrics"].items()]
        lines.append(f"numbers     {one_line(', '.join(numbers), _LONG)}")
    if run["choice"]:
        lines.append(f"trains by   {_text(run['choice'], 'reason')}")
        lines += [f"warning     {one_line(text, _LONG)}" for text in run["choice"]["warnings"]]
    if run["checkpoints"]:
        steps = [f"{c['step']}{' (best)' if c['is_best'] else ''}" for c in run["checkpoints"]]
        lines.append(f"checkpoints {', '.join(steps)}")
    for field, parent in run["parents"].items():
        lines.append(f"reads       {field} {one_line(parent['ref'])} {parent['id'] or '(gone)'}")
    lines += _process("made by", run["made_by"])
    if run["last_process"] != run["made_by"]:
        lines += _process("goes on by" if run["is_living"] else "then by", run["last_process"])
    age = age_text(now_s - run["created_s"])
    lines.append(f"began       {age}{' ago' * (age != 'now')}, in {run['folder']}")
    return [*lines, *_pairs("config", flattened(run["config"]))]


def event_lines(event: Event) -> Iterator[str]:
    """An event as lines: the time, what happened."""
    at = time.strftime("%H:%M:%S", time.localtime(event.time_s))
    for text in _said(event.kind, event.data):
        yield f"{at}  {one_line(text, _LONG)}"


def progress_text(progress: Mapping[str, Any], *, is_live: bool) -> str:
    """`train 120/450, 3.4 steps/s, 97 s left`; speed and time only while it goes on."""
    done, total = progress.get("done", 0), progress.get("total")
    unit = one_line(str(progress.get("unit", "")))
    text = f"{one_line(str(progress.get('stage', '')))} {done}{f'/{total}' if total else ''} {unit}"
    text = text.rstrip()
    if is_live and progress.get("rate_per_s"):
        text += f", {progress['rate_per_s']:.3g} {unit}/s"
    if is_live and progress.get("eta_s") is not None:
        text += f", {_left(progress['eta_s'])} left"
    return text.strip()


def number_text(value: Any) -> str:
    """A number with as many digits as a person reads; nothing for one that is missing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return one_line(str(value), 40)


def _cells(row: Mapping[str, Any], now_s: float) -> tuple[str, ...]:
    progress = row["progress"]
    return (
        row["run"],
        row["kind"],
        one_line(row["name"], 40),
        row["phase"],
        progress_text(progress, is_live=row["is_living"]) if progress else "",
        age_text(now_s - row["created_s"]),
    )


def _phase(run: Mapping[str, Any]) -> str:
    ends = run["is_living"] and run["phase"] in (*ENDED, "paused")
    return f"{run['phase']}{', its process still ends' if ends else ''}"


def _pairs(label: str, values: Mapping[str, Any]) -> list[str]:
    told = {key: value for key, value in values.items() if value not in (None, [], {}, "")}
    return [f"{label:<11} {one_line(f'{key}: {value}', _LONG)}" for key, value in told.items()]


def _process(label: str, process: Mapping[str, Any] | None) -> list[str]:
    if not process:
        return []
    job = process.get("job")
    who = f"Ray job {job}" if job else f"process {process.get('pid')}"
    return [f"{label:<11} {one_line(who)}: {_text(process, 'command')}"]


def _text(values: Mapping[str, Any], key: str) -> str:
    return one_line(str(values.get(key) or ""), _LONG)


def _left(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"


def _said(kind: str, data: Mapping[str, Any]) -> list[str]:
    match kind:
        case "log":
            return [str(data.get("text", ""))]
        case "phase":
            error = data.get("error") or {}
            why = f": [{error.get('code')}] {error.get('message')}" if error else ""
            return [f"{data.get('phase')}{why}"]
        case "checkpoint":
            return [
                f"checkpoint of step {data.get('step')}{', the best' * bool(data.get('is_best'))}"
            ]
        case "choice":
            return [f"auto: {data.get('reason')}", *map(str, data.get("warnings", ()))]
        case "resumed":
            return [f"goes on from step {data.get('step')}"]
        case "stage":
            return [f"{data.get('name')} {data.get('seconds')} s  {data.get('text', '')}"]
        case "started":
            return [f"process {data.get('pid')} begins: {data.get('command')}"]
        case _:
            told = " ".join(f"{key}={value}" for key, value in data.items())
            return [f"{kind} {told}"]
