"""Who takes part in a run on islands that chose itself, and how long its rounds are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import RayError

from actors.train_context import TrainOrder
from jobs import round_watch
from jobs.boxes import Box
from jobs.fleet import Fleet
from jobs.round_watch import MEASURE_EVERY_S, RoundWatch
from jobs.way import Survey, with_choice
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.auto import Choice, choose
from mulm.train.sync.link import Link
from mulm.train.sync.rounds import Standing
from mulm.train.sync.ways import Machine, Task

BYTES: Any = {"fp32": 4.0, "bf16": 2.0, "int8": 1.016, "int4": 0.516}
TASK = Task(
    steps=20_000, n_rows=16, row_tokens=64, n_parameters=23_000_000, workers=8, bytes_each=BYTES
)


def machine(name: str, mbit: float | None = 100.0, step_s: float = 0.5) -> Machine:
    link = None if mbit is None else Link(mbit * 125_000, mbit * 125_000, 0.001)
    return Machine(name, 1, step_s / 16, 0.0, 0.05, 16, link)


def box(name: str) -> Box:
    return Box(f"id of {name}", name, 1, {"CPU": 1.0})


@dataclass
class FakeSurvey:
    """Machines as they would be measured, and what the run is told."""

    known: dict[str, Machine]
    task: Task = TASK
    asked: list[str] = field(default_factory=list)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    place = ("head", 1, "secret")

    @property
    def context(self) -> FakeSurvey:
        return self

    def emit(self, kind: str, **data: Any) -> None:
        self.told.append((kind, data))

    def machines(self, boxes: Sequence[Box]) -> list[Machine]:
        self.asked += [box.address for box in boxes]
        return [self.known[box.address] for box in boxes if box.address in self.known]


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def begun(
    *machines: Machine, more: Sequence[Machine] = (), clock: Clock | None = None
) -> tuple[RoundWatch, FakeSurvey]:
    survey = FakeSurvey({m.name: m for m in (*machines, *more)})
    choice = choose(machines, TASK)
    assert choice.way.strategy == "diloco"
    return RoundWatch(cast(Survey, survey), choice, machines, clock or Clock()), survey


def names(boxes: Sequence[Box]) -> list[str]:
    return [box.address for box in boxes]


def test_a_machine_that_comes_is_measured_once_and_let_in_where_it_pays() -> None:
    watch, survey = begun(machine("head", None), machine("a", 400), more=[machine("b", 400)])
    here = [box("head"), box("a")]
    assert names(watch.admitted(here, ())) == ["head", "a"]
    assert survey.asked == []
    for _ in range(2):
        assert names(watch.admitted([*here, box("b")], here)) == ["head", "a", "b"]
    assert survey.asked == ["b"]


def test_who_would_keep_the_others_apart_for_too_long_is_refused_with_the_reason() -> None:
    # As good as the one that trains already; but three islands on such links talk too seldom.
    watch, survey = begun(machine("head", None), machine("a", 50), more=[machine("b", 50)])
    here = [box("head"), box("a")]
    assert names(watch.admitted([*here, box("b")], here)) == ["head", "a"]
    told = [data["text"] for kind, data in survey.told if kind == "log"]
    (why,) = [text for text in told if text.startswith("b ")]
    assert "b does not pay: islands would take" in why
    assert "more than 80 is not known to pay" in why


def test_a_machine_that_does_not_pay_gets_no_island_and_is_told_why() -> None:
    old = machine("old", 1000, step_s=5.0)
    watch, survey = begun(machine("head", None), machine("a", 1000), more=[old])
    here = [box("head"), box("a")]
    assert names(watch.admitted([*here, box("old")], here)) == ["head", "a"]
    (told,) = [data["text"] for kind, data in survey.told if kind == "log"]
    assert told.startswith("old does not pay: the run would be worth")
    # Where it is the only one that is left it trains all the same.
    assert names(watch.admitted([box("old")], ())) == ["old"]


def test_what_cannot_be_measured_is_not_let_in_and_who_trains_goes_on() -> None:
    watch, _ = begun(machine("head", None), machine("a"))
    here = [box("head"), box("a")]
    assert names(watch.admitted([*here, box("strange")], here)) == ["head", "a"]
    assert names(watch.admitted([*here, box("strange")], [*here, box("strange")])) == [
        "head", "a", "strange",
    ]  # fmt: skip


def test_rounds_follow_the_links() -> None:
    watch, survey = begun(machine("head", None), machine("a", 100.0))
    before_s = watch.round_s
    watch.adjust(["head", "a"])
    assert watch.round_s == before_s
    assert survey.told == []
    watch._measured["a"] = machine("a", 20.0)
    watch.adjust(["head", "a"])
    assert watch.round_s == pytest.approx(5 * before_s, rel=0.1)
    (log, choice) = survey.told
    assert (
        f"rounds last {watch.round_s:.1f} s from now on, before {before_s:.1f} s" in log[1]["text"]
    )
    assert "20 Mbit/s up" in log[1]["text"]
    assert "what islands learn with 150 steps in a round is not known to pay" in log[1]["text"]
    assert choice[0] == "choice"
    assert choice[1]["round_s"] == watch.round_s


def test_a_length_that_was_asked_for_stays() -> None:
    watch, survey = begun(machine("head", None), machine("a"))
    survey.task = Task(**{n: getattr(TASK, n) for n in TASK.__slots__} | {"round_s": 9.0})
    watch._measured["a"] = machine("a", 1.0)
    watch.adjust(["head", "a"])
    assert survey.told == []


class FakeOuter:
    """The aggregator's client, which tells it at once."""

    def __init__(self) -> None:
        self.aggregator = Aggregator(RoundPlan(n_rows=64, granule=4))
        self.aggregator.join("island-000", Standing((1,)))

    def set_round(self, round_s: float) -> None:
        self.aggregator.round_s = round_s

    def told_s(self) -> float:
        """How long rounds are to be, as an island hears it with its rows."""
        return self.aggregator.lease("island-000", 4, 0).round_s


@dataclass
class FakeIsland:
    """An island that measures its link, or cannot."""

    box: Box
    link: Link | RayError
    name: str = "island-000"
    n_measured: int = 0

    @property
    def workers(self) -> list[Any]:
        return [SimpleNamespace(measure_link=SimpleNamespace(remote=lambda *_: self))]

    def get(self) -> Link:
        self.n_measured += 1
        if isinstance(self.link, RayError):
            raise self.link
        return self.link


@dataclass
class FakeFleet:
    islands: list[FakeIsland]
    outer: FakeOuter = field(default_factory=FakeOuter)

    @property
    def boxes(self) -> list[Box]:
        return [island.box for island in self.islands]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The head's island and one elsewhere, whose link is as it was when the run began."""
    here = SimpleNamespace(get_node_id=lambda: box("head").node_id)
    monkeypatch.setattr(
        round_watch, "ray",
        SimpleNamespace(
            get_runtime_context=lambda: here, get=lambda asked, timeout: asked.get()
        ),
    )  # fmt: skip
    link = cast(Link, machine("a").link)
    return FakeFleet([FakeIsland(box(name), link) for name in ("head", "a")])


def look(watch: RoundWatch, fleet: FakeFleet) -> None:
    watch.look(cast(Fleet, fleet))


def test_links_are_measured_again_when_it_is_time_and_islands_told(fleet: FakeFleet) -> None:
    clock = Clock()
    watch, survey = begun(machine("head", None), machine("a"), clock=clock)
    before_s, (head, other) = watch.round_s, fleet.islands
    other.link = cast(Link, machine("a", 20.0).link)
    clock.now_s += MEASURE_EVERY_S - 1
    look(watch, fleet)
    assert (other.n_measured, watch.round_s) == (0, before_s)
    clock.now_s += 1
    look(watch, fleet)
    assert (head.n_measured, other.n_measured) == (0, 1)  # the head's own has no link
    assert watch.round_s == pytest.approx(5 * before_s, rel=0.1)
    assert fleet.outer.told_s() == watch.round_s
    assert [kind for kind, _ in survey.told] == ["log", "choice"]
    # The next time is counted from there, and what is better again makes rounds shorter.
    other.link = cast(Link, machine("a").link)
    clock.now_s += MEASURE_EVERY_S - 1
    look(watch, fleet)
    assert other.n_measured == 1
    clock.now_s += 1
    look(watch, fleet)
    assert (other.n_measured, watch.round_s) == (2, before_s)
    assert fleet.outer.told_s() == before_s


def test_an_aggregator_that_came_back_hears_the_length_again(fleet: FakeFleet) -> None:
    clock = Clock()
    watch, survey = begun(machine("head", None), machine("a"), clock=clock)
    clock.now_s += MEASURE_EVERY_S
    look(watch, fleet)
    assert survey.told == []
    assert fleet.outer.told_s() == watch.round_s


def test_a_link_that_cannot_be_measured_changes_nothing(fleet: FakeFleet) -> None:
    clock = Clock()
    watch, survey = begun(machine("head", None), machine("a"), clock=clock)
    before_s = watch.round_s
    fleet.islands[1].link = RayError("its worker\nis gone")
    clock.now_s += MEASURE_EVERY_S
    look(watch, fleet)
    assert (fleet.islands[1].n_measured, watch.round_s) == (1, before_s)
    ((kind, data),) = survey.told
    assert kind == "log"
    assert data["text"] == "island-000: its link was not measured: its worker is gone"
    # It is not asked again before its time.
    look(watch, fleet)
    assert fleet.islands[1].n_measured == 1


def choice_of(machines: Sequence[Machine], task: Task = TASK) -> Choice:
    return choose(machines, task)


def test_an_order_has_what_was_chosen_and_stays_auto(tmp_path: Any) -> None:
    dataset: Manifest = tiny_dataset(Store(tmp_path))
    config = TrainConfig(name="x", dataset="x", workers=3, batch_tokens=1024, seq_len=64)
    order = TrainOrder(config, "run_x", dataset, {}, "cpu")
    rounds = choice_of([machine("head", None), machine("a")])
    chosen = with_choice(order, rounds).config
    assert (chosen.sync, chosen.workers, chosen.diloco.wire) == ("auto", 3, "int8")
    assert chosen.diloco.round_s == rounds.way.round_s
    fast = Machine("a", 1, 10.0, 0.0, 0.05, 1, Link(125e6, 125e6, 0.001))
    sums = choice_of([Machine("head", 1, 10.0, 0.0, 0.05, 1), fast])
    assert sums.way.strategy == "ddp"
    chosen = with_choice(order, sums).config
    assert (chosen.sync, chosen.workers, chosen.wire_dtype) == ("auto", 2, sums.way.wire)
