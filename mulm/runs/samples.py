"""What a model wrote after fixed prompts, as its training went.

Called by whatever shows a run. Pure. Invariant: of each prompt and step there is one text, the last
that was told: a run that was resumed writes some of them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mulm.records import Event
from mulm.runs.curve import STEP


def newest_samples(events: Iterable[Event], last: int | None) -> list[dict[str, Any]]:
    """Texts of the newest steps that have any, oldest first; one of each prompt and step."""
    by_step: dict[int, dict[str, dict[str, Any]]] = {}
    for event in events:
        step, prompt = int(event.data.get(STEP, 0)), str(event.data.get("prompt", ""))
        by_step.setdefault(step, {})[prompt] = dict(event.data)
    steps = sorted(by_step)
    kept = steps if last is None else steps[max(0, len(steps) - last) :]
    return [sample for step in kept for sample in by_step[step].values()]
