"""How a run trains whose config leaves it open: machines are measured, and the best way is taken.

Called by `jobs.train` where `sync` is `auto`, and by `jobs.round_watch` for machines that come
later. Invariants: what was chosen, why, and what is left out is an event of the run; a machine that
cannot be measured is left out, and said.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.port_plan import server_port
from actors.surveyor import start_surveyor
from actors.train_context import TrainOrder
from jobs.boxes import Box
from jobs.entry import JobContext
from jobs.run_end import mulm_cause
from mulm.errors import JobFailedError
from mulm.model.config import MicroLMConfig
from mulm.settings import Settings
from mulm.train.settled import SettledConfig
from mulm.train.sync.auto import Choice, choose
from mulm.train.sync.link import LinkServer
from mulm.train.sync.survey import Pace, task_of
from mulm.train.sync.ways import Machine, Task

PACE_S, LINK_S = 90.0, 30.0
"""How long a machine may take to tell its pace, torch's start included, and to measure its link."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What machines are asked, and where they measure their links to; `end` it."""

    order: TrainOrder
    settled: SettledConfig
    shape: MicroLMConfig
    context: JobContext
    server: LinkServer

    @property
    def task(self) -> Task:
        """What is to be trained."""
        return task_of(self.settled, self.shape)

    @property
    def place(self) -> tuple[str, int, str]:
        """Of the server, with its secret."""
        return (*self.server.address, self.server.secret)

    def machines(self, boxes: Sequence[Box]) -> list[Machine]:
        """What was measured on each, one after the other: they may share cores, or a line."""
        surveyors = [start_surveyor(box.node_id, box.resources) for box in boxes]
        try:
            found = [self._machine(*pair) for pair in zip(boxes, surveyors, strict=True)]
        finally:
            for surveyor in surveyors:
                ray.kill(surveyor)
        return [machine for machine in found if machine is not None]

    def end(self) -> None:
        """Answer nobody any more."""
        self.server.close()

    def _machine(self, box: Box, surveyor: Any) -> Machine | None:
        here = ray.get_runtime_context().get_node_id()
        try:
            asked = surveyor.pace.remote(self.settled, self.shape, self.order.device)
            pace: Pace = ray.get(asked, timeout=PACE_S)
            link = None
            if box.node_id != here:
                link = ray.get(surveyor.link.remote(*self.place), timeout=LINK_S)
        except RayError as error:
            self.context.emit("log", text=f"{box.address} is left out: {_why(error)}")
            return None
        return pace.machine(box.address, box.n_workers, link)


def start_survey(
    order: TrainOrder, settled: SettledConfig, shape: MicroLMConfig, context: JobContext
) -> Survey:
    """Ready to measure; links lead to this machine, where the aggregator will be."""
    host = ray.util.get_node_ip_address()
    port = server_port(host, Settings.from_env())
    server = LinkServer(host, secrets.token_urlsafe(32), port)
    return Survey(order, settled, shape, context, server)


def choose_way(survey: Survey, boxes: Sequence[Box]) -> tuple[Choice, list[Machine]]:
    """Measure, choose, and tell the run; also what was measured.

    Raises:
        JobFailedError: no machine could be measured.
    """
    survey.context.emit("log", text=f"measuring {len(boxes)} machines and their links")
    machines = survey.machines(boxes)
    if not machines:
        raise JobFailedError(
            "no machine could be measured", hint="`mulm runs logs` says why; or set sync: ddp"
        )
    choice = choose(machines, survey.task)
    measured = [_told(machine) for machine in machines]
    survey.context.emit("choice", **choice.facts, measured=measured)
    return choice, machines


def with_choice(order: TrainOrder, choice: Choice) -> TrainOrder:
    """The order as it is carried out; its config stays that of `auto`."""
    config, way = order.config, choice.way
    changes: Mapping[str, Any] = {"workers": way.n_workers}
    if way.strategy == "diloco":
        rounds = config.diloco.model_copy(update={"wire": way.wire, "round_s": way.round_s})
        changes = {"diloco": rounds}
    elif way.strategy == "ddp":
        changes = {**changes, "wire_dtype": way.wire}
    return replace(order, config=config.model_copy(update=changes))


def with_workers(order: TrainOrder, n_workers: int) -> TrainOrder:
    """The order for another number of them; the run stays the same one."""
    return replace(order, config=order.config.model_copy(update={"workers": n_workers}))


def _told(machine: Machine) -> dict[str, Any]:
    link = machine.link
    return {
        "machine": machine.name,
        "workers": machine.n_workers,
        "rows_per_s": round(machine.rows_per_s, 3),
        "update_s": round(machine.update_s, 4),
        "round_s": round(machine.round_s, 4),
        "link": str(link) if link else "the head's own",
    }


def _why(error: RayError) -> str:
    if isinstance(error, GetTimeoutError):
        return f"it was not measured within {PACE_S:.0f} s"
    cause = mulm_cause(error)
    return cause.message if cause else " ".join(str(error).split())[:200]
