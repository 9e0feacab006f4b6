"""Who takes part in a run on islands that chose itself, and how long its rounds are, as it goes on.

Asked by `jobs.train_islands`. Machines that come are measured before they get an island; links are
measured again every `MEASURE_EVERY_S`, and rounds become longer or shorter with them. Invariants:
who trains goes on; what changes is an event of the run; a link that cannot be measured changes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import ray
from ray.exceptions import RayError

from jobs.boxes import Box
from jobs.fleet import Fleet, RunningIsland
from jobs.way import LINK_S, Survey
from mulm.train.sync.auto import Choice, choose_islands
from mulm.train.sync.link import Link
from mulm.train.sync.ways import Machine, shortest_round_s, steps_in
from mulm.train.sync.worth import MOST_STEPS

MEASURE_EVERY_S = 120.0
CHANGED = 1.25
"""The factor by which a round's length must be off before it is changed."""


class RoundWatch:
    """Of one run.

    Args:
        survey: Measures machines that come.
        choice: What was chosen at the beginning: islands.
        machines: All that were measured for it.
    """

    def __init__(
        self,
        survey: Survey,
        choice: Choice,
        machines: Iterable[Machine],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._survey, self._choice, self._now_s = survey, choice, now_s
        self._measured = {machine.name: machine for machine in machines}
        self._present = frozenset(self._measured)
        self._paying = {machine.name for machine in choice.way.machines}
        self._due_s = now_s() + MEASURE_EVERY_S
        self.round_s = choice.way.round_s

    @property
    def n_rounds(self) -> float:
        """Of the whole run, as it was chosen."""
        return self._choice.way.n_rounds

    def admitted(self, boxes: Sequence[Box], training: Iterable[Box]) -> list[Box]:
        """Those of the machines that are there which are to have an island."""
        present, staying = (frozenset(box.address for box in some) for some in (boxes, training))
        if present != self._present:
            self._present = present
            self._judge(boxes, staying & present)
        wanted = self._paying | staying
        # Rather a machine that does not pay than none.
        return [box for box in boxes if box.address in wanted] or list(boxes)

    def look(self, fleet: Fleet) -> None:
        """Measure links again, where it is time, and tell islands how long rounds are to be."""
        if self._now_s() < self._due_s:
            return
        here = ray.get_runtime_context().get_node_id()
        for island in fleet.islands:
            machine = self._measured.get(island.box.address)
            if machine is None or island.box.node_id == here:
                continue
            if (link := self._link(island)) is not None:
                self._measured[machine.name] = replace(machine, link=link)
        self.adjust(box.address for box in fleet.boxes)
        fleet.outer.set_round(self.round_s)  # also where nothing changed: it may have died since
        self._due_s = self._now_s() + MEASURE_EVERY_S

    def adjust(self, names: Iterable[str]) -> None:
        """Make rounds as short as the links of these machines allow, where that is a change."""
        task, way = self._survey.task, self._choice.way
        machines = [self._measured[name] for name in names if name in self._measured]
        if task.round_s is not None or not machines:
            return
        needed_s = shortest_round_s(machines, task, way.wire)
        if max(needed_s, self.round_s) < CHANGED * min(needed_s, self.round_s):
            return
        links = "; ".join(f"{m.name}: {m.link}" for m in machines if m.link)
        text = f"rounds last {needed_s:.1f} s from now on, before {self.round_s:.1f} s ({links})"
        steps = steps_in(needed_s, machines, task)
        if steps > MOST_STEPS:  # who trains goes on all the same
            text += f"; what islands learn with {steps:.0f} steps in a round is not known to pay"
        self.round_s = needed_s
        self._choice = replace(self._choice, way=replace(way, round_s=needed_s, steps=steps))
        self._survey.context.emit("log", text=text)
        self._survey.context.emit("choice", **self._choice.facts)

    def _judge(self, boxes: Sequence[Box], staying: frozenset[str]) -> None:
        """Measure who is new, and decide again who pays beside those that train."""
        new = [box for box in boxes if box.address not in self._measured]
        for machine in self._survey.machines(new) if new else ():
            self._measured[machine.name] = machine
        here = [self._measured[name] for name in self._present if name in self._measured]
        if not here:
            self._paying = set(self._present)
            return
        choice = choose_islands(here, self._survey.task, staying)
        self._paying = {machine.name for machine in choice.way.machines}
        for warning in choice.warnings:
            self._survey.context.emit("log", text=warning)

    def _link(self, island: RunningIsland) -> Link | None:
        try:
            link: Link = ray.get(
                island.workers[0].measure_link.remote(*self._survey.place), timeout=LINK_S
            )
        except RayError as error:
            text = f"{island.name}: its link was not measured: {' '.join(str(error).split())[:200]}"
            self._survey.context.emit("log", text=text)
            return None
        return link
