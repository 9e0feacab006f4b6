"""What each way to train on several machines would cost and be worth.

Asked by `auto`, which compares them. Pure arithmetic over what was measured: a step of workers that
sum gradients, a round of islands. Invariant: what is not measured beforehand, such as how much of a
sum a way back hides, comes from a benchmark that is named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mulm.train.sync.codec import Wire
from mulm.train.sync.link import Link
from mulm.train.sync.round_plan import inner_rows
from mulm.train.sync.worth import MOST_STEPS, worth

MOST = 0.05
"""The part of the time that talking may cost."""
BUSY = 0.5
"""The part of a round in which its weights are on their way."""
SHORTEST_ROUND_S = 1.0
LONG_ROUND_S, LONGEST_ROUND_S = 60.0, 600.0
FEWEST_ROUNDS = 40
"""Of a run: what islands learn in fewer is not measured."""
_HIDES = 0.6
"""The part of a micro-batch's time behind which sums are hidden (`benchmarks.overlap`)."""
_COLLECTIVE = 0.8
"""Of a link's speed, what a sum over it reaches."""
_BUCKET_BYTES = 16 << 20

Strategy = Literal["single", "ddp", "diloco"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on a machine; all its workers are alike.

    Without a link it is the aggregator's own machine.
    """

    name: str
    n_workers: int
    row_s: float
    """Forward and backward of a row, on one worker."""
    update_s: float
    """Of the optimizer, once a step."""
    round_s: float
    """What one round of all weights takes from the training of an island."""
    rows_at_once: int = 1
    link: Link | None = None

    @property
    def rows_per_s(self) -> float:
        """Of all its workers."""
        return self.n_workers / self.row_s


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be trained, and what its config leaves open.

    `workers` is how many there are at most; `wires` are tried in their order, and `round_s` is kept
    where it was given.
    """

    steps: int
    n_rows: int
    row_tokens: int
    n_parameters: int
    workers: int
    bytes_each: Mapping[Wire, float]
    """Of a number on the wire."""
    sum_wires: tuple[Wire, ...] = ("fp32", "bf16")
    wires: tuple[Wire, ...] = ("int8", "int4")
    round_s: float | None = None
    fragments: int = 4
    is_overlapped: bool = True
    is_balanced: bool = True

    def bytes_of(self, wire: Wire) -> float:
        """Of all weights."""
        return self.n_parameters * self.bytes_each[wire]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train, and what is expected of it."""

    strategy: Strategy
    machines: tuple[Machine, ...]
    n_workers: int
    tokens_per_s: float
    worth: float
    """Tokens a second in step that would be worth as much."""
    share: float
    """Of the time, what talking costs."""
    wire: Wire = "fp32"
    round_s: float = 0.0
    steps: float = 0.0
    """Of the fastest island, in a round."""
    n_rounds: float = 0.0
    """Of the run, of the same weights."""
    refusal: str = ""
    """Why its rounds are none that islands may have."""
    too_long: float = 0.0
    """How many times as long as they may be its rounds are; above 1 there is a refusal."""

    @property
    def excess(self) -> float:
        """How many times more than a way may have it has, of what it has most of."""
        return max(self.share / MOST, self.too_long)

    @property
    def is_allowed(self) -> bool:
        """Whether it is a way at all."""
        return self.excess <= 1

    @property
    def text(self) -> str:
        """For a person."""
        names = ", ".join(machine.name for machine in self.machines)
        match self.strategy:
            case "single":
                return f"one worker on {names}"
            case "ddp":
                return f"gradients summed every step in {self.wire} on {names}"
        rounds = f"rounds of {self.round_s:.1f} s ({self.steps:.0f} steps)"
        return f"islands on {names} in {rounds} in {self.wire}"


def on_one(machine: Machine, task: Task) -> Way:
    """All workers of one machine, at most those asked for; they sum gradients in its memory."""
    n_workers = min(machine.n_workers, task.workers)
    step_s = task.n_rows / n_workers * machine.row_s + machine.update_s
    speed = task.n_rows * task.row_tokens / step_s
    strategy: Strategy = "single" if n_workers == 1 else "ddp"
    return Way(strategy, (machine,), n_workers, speed, speed, 0.0, task.sum_wires[0])


def within(fastest: Sequence[Machine], n_workers: int) -> list[Machine]:
    """The first of these machines, with so many workers in all at most."""
    taken: list[Machine] = []
    for machine in fastest:
        room = n_workers - sum(m.n_workers for m in taken)
        if room > 0:
            taken.append(replace(machine, n_workers=min(machine.n_workers, room)))
    return taken


def sums(fastest: Sequence[Machine], task: Task, wire: Wire) -> Way | None:
    """Sums every step over the first of these machines; None where one has room for all workers."""
    taken = within(fastest, min(task.workers, task.n_rows))
    n_workers = sum(m.n_workers for m in taken)
    if len(taken) < 2:
        return None
    rows_per_s = sum(m.rows_per_s for m in taken)
    if not task.is_balanced:
        rows_per_s = n_workers * min(1 / m.row_s for m in taken)
    compute_s = task.n_rows / rows_per_s + max(m.update_s for m in taken)
    links = [m.link for m in taken if m.link is not None]
    rows_each = task.n_rows / n_workers
    hidden_s = _HIDES * min(min(m.rows_at_once, rows_each) * m.row_s for m in taken)
    shown_s = max(0.0, _sum_s(links, n_workers, task.bytes_of(wire)) - hidden_s)
    # The bytes that decide whether a step ends are never hidden.
    shown_s += 2 * max(link.round_trip_s for link in links)
    step_s = compute_s + shown_s
    speed = task.n_rows * task.row_tokens / step_s
    return Way("ddp", tuple(taken), n_workers, speed, speed, shown_s / step_s, wire)


def _sum_s(links: Sequence[Link], n_workers: int, size_bytes: float) -> float:
    """A sum over a ring of workers, each way at once."""
    rate = _COLLECTIVE * min(min(x.up_bytes_per_s, x.down_bytes_per_s) for x in links)
    turns = 2 * (n_workers - 1)
    buckets = math.ceil(size_bytes / _BUCKET_BYTES)
    latency_s = turns * buckets * max(x.round_trip_s for x in links) / 2
    return turns / n_workers * size_bytes / rate + latency_s


def islands(taken: Sequence[Machine], task: Task) -> Way | None:
    """In the first wire whose rounds are not long, else in the last."""
    if len(taken) < 2 or any(inner_rows(task.n_rows, len(taken)) < m.n_workers for m in taken):
        return None
    way = None
    for wire in task.wires:
        shortest_s = shortest_round_s(taken, task, wire)
        round_s = shortest_s if task.round_s is None else task.round_s
        way = _in_rounds(taken, task, wire, round_s, is_slow=round_s < shortest_s)
        if round_s <= LONG_ROUND_S and way.is_allowed:
            break
    return way


def _in_rounds(
    taken: Sequence[Machine], task: Task, wire: Wire, round_s: float, *, is_slow: bool
) -> Way:
    inner_s = [_inner_s(m, task, len(taken)) for m in taken]
    costs = [_cost_s(m, task, wire) / round_s for m in taken]
    rows = inner_rows(task.n_rows, len(taken)) * task.row_tokens
    pairs = zip(costs, inner_s, strict=True)
    speed = sum(rows / step_s * max(0.0, 1 - cost) for cost, step_s in pairs)
    share = max(costs)
    if is_slow:  # the rounds that were asked for are shorter than the link carries
        share = max(share, MOST * shortest_round_s(taken, task, wire) / round_s)
    steps = steps_in(round_s, taken, task)
    each = worth(steps, max(inner_s) / min(inner_s))
    # Longer rounds cost less time and teach less: by their time they are not worth more.
    whole = sum(rows / step_s * (1 - MOST) for step_s in inner_s)
    n_workers = sum(m.n_workers for m in taken)
    n_rounds = task.steps * task.n_rows * task.row_tokens / (speed * round_s) if speed else 0.0
    refusal, too_long = _length(round_s, steps, n_rounds)
    return Way("diloco", tuple(taken), n_workers, speed, (each or 0.0) * whole, share, wire,
               round_s, steps, n_rounds, refusal, too_long)  # fmt: skip


def _length(round_s: float, steps: float, n_rounds: float) -> tuple[str, float]:
    """Why rounds are too long, if they are, and by what factor."""
    limits = (
        (f"islands would take {steps:.0f} steps between two exchanges, and what they learn with"
         f" more than {MOST_STEPS:.0f} is not known to pay", steps / MOST_STEPS),
        (f"the run would have {n_rounds:.0f} rounds, and what islands learn in fewer than"
         f" {FEWEST_ROUNDS} is not measured", FEWEST_ROUNDS / n_rounds if n_rounds else math.inf),
        (f"rounds would last {round_s:.0f} s, {LONGEST_ROUND_S:.0f} s is the most",
         round_s / LONGEST_ROUND_S),
    )  # fmt: skip
    words, too_long = max(limits, key=lambda limit: limit[1])
    return (words if too_long > 1 else "", too_long)


def shortest_round_s(machines: Sequence[Machine], task: Task, wire: Wire) -> float:
    """The shortest round of which islands on these machines spend no more than they may."""
    needed = [SHORTEST_ROUND_S, 2 * max(_inner_s(m, task, len(machines)) for m in machines)]
    exchanges = [_exchange_s(m.link, task, wire) for m in machines if m.link is not None]
    exchanges.append(_hub_s([m.link for m in machines if m.link is not None], task, wire))
    needed += [_cost_s(machine, task, wire) / MOST for machine in machines]
    if task.is_overlapped:
        needed.append(max(exchanges) / BUSY)
    return math.ceil(10 * max(needed)) / 10


def steps_in(round_s: float, machines: Sequence[Machine], task: Task) -> float:
    """What the fastest of these islands takes in a round."""
    return round_s / min(_inner_s(machine, task, len(machines)) for machine in machines)


def _cost_s(machine: Machine, task: Task, wire: Wire) -> float:
    """What a round takes from an island's training."""
    waited_s = 0.0
    if not task.is_overlapped and machine.link is not None:
        waited_s = _exchange_s(machine.link, task, wire)
    return machine.round_s + waited_s


def _exchange_s(link: Link, task: Task, wire: Wire) -> float:
    """Weights up and down, and the questions and answers around them."""
    size_bytes = task.bytes_of(wire)
    asked_s = 2 * task.fragments * link.round_trip_s
    return size_bytes / link.up_bytes_per_s + size_bytes / link.down_bytes_per_s + asked_s


def _hub_s(links: Sequence[Link], task: Task, wire: Wire) -> float:
    """The aggregator's own link carries what all others say; it is as fast as the fastest."""
    if not links:
        return 0.0
    size_bytes = len(links) * task.bytes_of(wire)
    up, down = max(x.up_bytes_per_s for x in links), max(x.down_bytes_per_s for x in links)
    return size_bytes / up + size_bytes / down


def _inner_s(machine: Machine, task: Task, n_islands: int) -> float:
    """A step of an island."""
    return inner_rows(task.n_rows, n_islands) / machine.rows_per_s + machine.update_s
