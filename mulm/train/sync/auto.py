"""What `sync: auto` chooses: which machines train one model, how they agree, and how often.

Called by the driver of a run with what was measured. A pure function. The rules, in their order:

1. Every way costs time: summing gradients every step costs what of the sum the last way back does
   not hide; a round of islands costs copying and adding weights, and the link must carry a round in
   `BUSY` of its time. A way that costs more than `MOST` of the time is no way.
2. A way is worth the tokens a second that all machines train on together; those of islands count
   for less (`worth`), the less the more steps are between two exchanges and the slower one of them
   is. So a much slower island does not pay. Of more steps than were measured islands are no way.
3. The best way is taken: one machine, sums every step over some, or islands on some. A machine
   that does not raise the worth by a factor of `PAYS` is left out, and it is told why.
4. A run has `FEWEST_ROUNDS` rounds at least: what islands learn in fewer is not measured.

Where sums are too slow in fp32, bf16 is tried; where rounds in int8 would be longer than
`LONG_ROUND_S`, int4. Invariant: the same numbers give the same choice, whatever the order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from mulm.train.sync.link import Link
from mulm.train.sync.ways import MOST, Machine, Task, Way, islands, on_one, sums, within

PAYS = 1.02


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen, why, and what is left out."""

    way: Way
    reason: str
    gain: float
    """Its worth over that of the best worker alone."""
    warnings: tuple[str, ...] = ()
    """A line for each machine that would not pay."""

    @property
    def facts(self) -> dict[str, object]:
        """For the run's record."""
        way = self.way
        return {
            "strategy": way.strategy,
            "machines": [machine.name for machine in way.machines],
            "workers": way.n_workers,
            "wire": way.wire,
            "round_s": round(way.round_s, 1),
            "inner_steps": round(way.steps, 1),
            "gain": round(self.gain, 3),
            "tokens_per_s": round(way.tokens_per_s),
            "share": round(way.share, 4),
            "reason": self.reason,
            "warnings": list(self.warnings),
        }


def choose(machines: Sequence[Machine], task: Task) -> Choice:
    """The way to train; of ways that are worth the same the first in the rules."""
    ordered = sorted(machines, key=lambda m: (-m.rows_per_s, m.name))
    alone = max((on_one(machine, task) for machine in ordered), key=lambda way: way.worth)
    summed, apart = _best_sums(ordered, task), _best_islands(ordered, task)
    best = alone
    for way in (summed, apart):
        if way is not None and way.is_allowed and way.worth > PAYS * best.worth:
            best = way
    one = max(on_one(replace(m, n_workers=1), task).worth for m in ordered)
    gain = best.worth / one
    return Choice(best, _reason(best, (summed, apart, alone), gain), gain,
                  tuple(_warnings(ordered, best, task)))  # fmt: skip


def choose_islands(machines: Sequence[Machine], task: Task, kept: Collection[str] = ()) -> Choice:
    """Who takes part in a run that goes on in islands; one machine where no two pay.

    Args:
        machines: All that are there.
        task: What is trained.
        kept: Names of those that train and go on: the others are to pay beside them.
    """
    ordered = sorted(machines, key=lambda m: (-m.rows_per_s, m.name))
    best = _best_islands(ordered, task, kept)
    staying = [m for m in ordered if m.name in kept] or ordered
    alone = max((on_one(machine, task) for machine in staying), key=lambda way: way.worth)
    if best is None or not best.is_allowed or (len(kept) < 2 and best.worth <= PAYS * alone.worth):
        best = alone
    one = max(on_one(replace(m, n_workers=1), task).worth for m in ordered)
    gain = best.worth / one
    return Choice(best, _reason(best, (), gain), gain, tuple(_warnings(ordered, best, task)))


def _best_sums(ordered: Sequence[Machine], task: Task) -> Way | None:
    """Over all machines, or those whose links are the fastest."""
    best: Way | None = None
    by_link = sorted(ordered, key=lambda m: -_rate(m.link))
    for count in range(2, len(by_link) + 1):
        fastest = [m for m in ordered if m in by_link[:count]]
        for wire in task.sum_wires:
            way = sums(fastest, task, wire)
            if way is not None and _is_better(way, best):
                best = way
            if way is not None and way.is_allowed:
                break
    return best


def _best_islands(ordered: Sequence[Machine], task: Task, kept: Collection[str] = ()) -> Way | None:
    """On all machines but those that do not pay, left out one by one."""
    left = list(ordered)
    best = islands(within(left, task.workers), task)
    while len(left) > 2:
        found: Way | None = None
        free = [machine for machine in left if machine.name not in kept]
        for out in sorted(free, key=lambda m: _rate(m.link)):  # of equals the slowest link goes
            way = islands(within([m for m in left if m is not out], task.workers), task)
            if way is not None and (found is None or _rank(way) > _rank(found)):
                found, worst = way, out
        if found is None:
            break
        if best is not None and best.is_allowed and _rank(found) * PAYS < _rank(best):
            break
        best = found
        left.remove(worst)
    return best


def _rate(link: Link | None) -> float:
    return math.inf if link is None else min(link.up_bytes_per_s, link.down_bytes_per_s)


def _rank(way: Way) -> float:
    """What it is worth; below nothing, the further the more it costs, where that is too much."""
    return way.worth if way.is_allowed else -way.excess


def _is_better(way: Way, than: Way | None) -> bool:
    """Also among ways that cost too much: the nearest is told."""
    if than is None:
        return True
    if way.is_allowed != than.is_allowed:
        return way.is_allowed
    return way.worth > PAYS * than.worth


def _reason(best: Way, ways: Sequence[Way | None], gain: float) -> str:
    """In a sentence."""
    costs = f", talking costs {best.share:.1%} of the time" if len(best.machines) > 1 else ""
    others = [way for way in ways if way is not None and way is not best]
    besides = "; ".join(f"{way.text}: {_against(way, best)}" for way in others)
    return f"{best.text}{costs}, worth {gain:.2f} times the best worker alone" + (
        f" ({besides})" if besides else ""
    )


def _against(way: Way, best: Way) -> str:
    if way.share > MOST:
        return f"talking would cost {min(way.share, 1.0):.0%}"
    if way.refusal:
        return way.refusal
    return f"worth {way.worth / best.worth:.2f} of it"


def _warnings(ordered: Sequence[Machine], best: Way, task: Task) -> Iterator[str]:
    names = {machine.name for machine in best.machines}
    for machine in ordered:
        if machine.name in names:
            continue
        with_it = [m for m in ordered if m.name in names | {machine.name}]
        ways = [islands(within(with_it, task.workers), task)]
        if best.strategy != "diloco":
            ways.append(_best_sums(with_it, task))
        found = [way for way in ways if way is not None and machine.name in _names(way)]
        link = f" (its link: {machine.link})" if machine.link else ""
        if found:
            yield f"{machine.name} does not pay: {_why_not(found, best)}{link}"
        else:
            yield f"{machine.name} is not needed: {task.workers} workers were asked for"


def _why_not(found: Sequence[Way], best: Way) -> str:
    allowed = [way.worth for way in found if way.is_allowed]
    if allowed:
        return f"the run would be worth {max(allowed) / best.worth:.2f} of what it is without it"
    nearest = min(found, key=lambda way: way.excess)
    if nearest.share <= MOST:
        return nearest.refusal
    return f"talking to it would cost {min(nearest.share, 1.0):.0%} of the time"


def _names(way: Way) -> set[str]:
    return {machine.name for machine in way.machines}
