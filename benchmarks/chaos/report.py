"""The table of `docs/reliability.md` out of what `make chaos` has printed.

    make chaos > results.jsonl; python -m benchmarks.chaos.report < results.jsonl

Called by a person. Invariant: it writes only what stands in the results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.chaos.__main__ import CASES

HEAD = (
    "| case | fault | times | result | answered again (s) | seen |\n"
    "|---|---|---|---|---|---|\n"
)  # fmt: skip
_SHOWN = (
    "acknowledged", "damages", "told", "silent", "finished_s", "steps_compared", "upload_told",
    "backups", "acts",
)  # fmt: skip


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """One row for each case that was run, in the order of the suite."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_case.setdefault(result["case"], []).append(result)
    rows = [
        _row(case.name, case.what, by_case[case.name]) for case in CASES if case.name in by_case
    ]
    return HEAD + "".join(rows)


def _row(name: str, what: str, results: list[Mapping[str, Any]]) -> str:
    n_passed = sum(result["passed"] for result in results)
    seeds = ", ".join(str(result["seed"]) for result in results)
    again = [result["again_s"] for result in results if "again_s" in result]
    seen = "; ".join(_seen(result) for result in results[:1])
    worst = f"{max(again):.1f}" if again else ""
    return (
        f"| `{name}` | {what} | {len(results)} (seed {seeds}) | {n_passed} of {len(results)} well"
        f" | {worst} | {seen} |\n"
    )


def _seen(result: Mapping[str, Any]) -> str:
    answers = result.get("answers", {})
    told = [f"{n} {kind}" for kind, n in answers.items()]
    told += [
        f"{key.removesuffix('_s').replace('_', ' ')} {result[key]}"
        for key in _SHOWN
        if key in result
    ]
    return ", ".join(told)


def main() -> None:
    """Read lines of JSON among others, print the table."""
    lines = [line for line in sys.stdin if line.startswith('{"case"')]
    print(table(map(json.loads, lines)), end="")


if __name__ == "__main__":
    main()
