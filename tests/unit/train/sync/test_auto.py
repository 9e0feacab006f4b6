"""What `sync: auto` chooses, by the numbers of links and machines as they stand at home."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from mulm.train.sync.auto import Choice, choose, choose_islands
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.link import Link
from mulm.train.sync.ways import MOST, Machine, Task, islands, shortest_round_s, sums

MBIT = 125_000.0
BYTES = {name: codec.size_bytes(1 << 20) / (1 << 20) for name, codec in CODECS.items()}
# 23 M parameters and steps of 0.5 s: those of the measured table.
ROWS = 16


def link(up: float, down: float | None = None, round_trip_s: float = 0.001) -> Link:
    return Link(up * MBIT, (down or up) * MBIT, round_trip_s)


def machine(name: str, to: Link | None, *, step_s: float = 0.5, n_workers: int = 1) -> Machine:
    row_s = step_s / ROWS * n_workers
    return Machine(name, n_workers, row_s, 0.0, round_s=0.05, rows_at_once=ROWS, link=to)


def task(**given: Any) -> Task:
    values: dict[str, Any] = {
        "steps": 20_000, "n_rows": ROWS, "row_tokens": 64, "n_parameters": 23_000_000, "workers": 8,
        "bytes_each": BYTES,
    }  # fmt: skip
    return Task(**(values | given))


def pair(to: Link, *, step_s: float = 0.5) -> list[Machine]:
    return [machine("head", None), machine("other", to, step_s=step_s)]


CASES: list[tuple[str, Sequence[Machine], Task, str, str, int]] = [
    # name, machines, task, strategy, wire, machines that train
    ("1 Gbit/s, 0.5 s", pair(link(1000)), task(), "diloco", "int8", 2),
    ("1 Gbit/s, long steps", pair(link(1000)), task(n_rows=64 * ROWS), "ddp", "fp32", 2),
    ("1 Gbit/s, steps of 12 s", pair(link(1000)), task(n_rows=24 * ROWS), "ddp", "bf16", 2),
    ("10 Gbit/s", pair(link(10_000, round_trip_s=1e-4)), task(), "ddp", "fp32", 2),
    ("100 Mbit/s", pair(link(100)), task(), "diloco", "int8", 2),
    ("10 Mbit/s up, 100 down", pair(link(10, 100)), task(), "single", "fp32", 1),
    ("20 Mbit/s up, long steps", pair(link(20, 100)), task(n_rows=8 * ROWS), "diloco", "int8", 2),
    ("30 Mbit/s, few steps only in int4", pair(link(30)), task(), "diloco", "int4", 2),
    ("20 Mbit/s up, 130 M", pair(link(20, 100)),
     task(n_parameters=130_000_000, n_rows=32 * ROWS), "diloco", "int4", 2),
    ("a modem", pair(link(0.5)), task(), "single", "fp32", 1),
    ("2:1", pair(link(100), step_s=1.0), task(), "diloco", "int8", 2),
    ("4:1", pair(link(100), step_s=2.0), task(), "single", "fp32", 1),
    ("100:1", pair(link(100), step_s=50.0), task(), "single", "fp32", 1),
    ("one box, two workers", [machine("head", None, step_s=0.25, n_workers=2)], task(workers=2),
     "ddp", "fp32", 1),
    ("one worker", [machine("head", None)], task(), "single", "fp32", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("machines", "to_do", "strategy", "wire", "count"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_choices(
    machines: Sequence[Machine], to_do: Task, strategy: str, wire: str, count: int
) -> None:
    choice = choose(machines, to_do)
    assert (choice.way.strategy, choice.way.wire) == (strategy, wire), choice.reason
    assert len(choice.way.machines) == count, choice.reason
    assert choice.way.share <= MOST
    assert choice.gain >= 1.0
    assert len(choice.warnings) == len(machines) - count
    json.dumps(choice.facts)


def test_the_link_carries_a_round_in_half_of_its_time() -> None:
    for mbit in (20, 100, 1000):
        machines, to_do = pair(link(mbit)), task()
        round_s = shortest_round_s(machines, to_do, "int8")
        carried = round_s * mbit * MBIT / 2
        assert carried >= 2 * to_do.bytes_of("int8") or round_s == pytest.approx(1.0)
    # The loop's own cost keeps rounds longer than a fast link would need.
    assert shortest_round_s(pair(link(10_000)), task(), "int8") == pytest.approx(1.0)


def test_the_aggregators_link_carries_what_all_others_say() -> None:
    two, four = (
        [machine("head", None), *(machine(f"m{n}", link(100)) for n in range(count))]
        for count in (1, 3)
    )
    ratio = shortest_round_s(four, task(), "int8") / shortest_round_s(two, task(), "int8")
    assert ratio == pytest.approx(3.0, rel=0.05)


def test_a_machine_behind_a_slow_link_is_left_out_and_told() -> None:
    machines = [*pair(link(100)), machine("far", link(0.3))]
    choice = choose(machines, task())
    assert [m.name for m in choice.way.machines] == ["head", "other"]
    (warning,) = choice.warnings
    assert warning.startswith("far does not pay: islands would take 10121 steps between two")
    assert "0 Mbit/s up" in warning
    # Where the length is given it is the talk that costs too much.
    (warning,) = choose(machines, task(round_s=9.0)).warnings
    assert warning.startswith("far does not pay: talking to it would cost 100% of the time")


def test_who_comes_is_to_pay_beside_one_that_trains_alone() -> None:
    slow = [machine("head", None), machine("other", link(100), step_s=5.0)]
    choice = choose_islands(slow, task(), kept=["head"])
    assert [m.name for m in choice.way.machines] == ["head"]
    # A faster one that would talk too seldom does not take the place of who trains.
    fast = [machine("head", None, step_s=2.0), machine("other", link(0.3))]
    choice = choose_islands(fast, task(), kept=["head"])
    assert [m.name for m in choice.way.machines] == ["head"]


def test_several_machines_behind_slow_links_do_not_keep_the_others_apart() -> None:
    far = [machine(name, link(0.3)) for name in ("a_far", "b_far")]
    choice = choose([*pair(link(100)), *far], task())
    assert choice.way.strategy == "diloco"
    assert [m.name for m in choice.way.machines] == ["head", "other"]
    assert len(choice.warnings) == 2


def test_islands_of_more_steps_than_were_measured_are_refused_with_the_reason() -> None:
    machines = pair(link(10, 100))
    choice = choose(machines, task())
    assert choice.way.strategy == "single"
    words = "steps between two exchanges, and what they learn with more than 80 is not known to pay"
    assert words in choice.reason
    assert words in choice.warnings[0]
    # Neither are rounds of that length begun which the config asks for.
    assert words in choose(pair(link(1000)), task(round_s=33.0)).reason


def test_more_steps_in_a_round_are_worth_less() -> None:
    worths = []
    for round_s in (2.5, 5.0, 9.9):
        way = islands(pair(link(1000)), task(round_s=round_s))
        assert way is not None
        assert way.is_allowed
        worths.append(way.worth)
    assert worths == sorted(worths, reverse=True)
    assert worths[-1] < 0.9 * worths[0]


def test_a_slow_machine_that_adds_next_to_nothing_is_left_out() -> None:
    machines = [*pair(link(1000)), machine("old", link(1000), step_s=5.0)]
    choice = choose(machines, task())
    assert "old" not in {m.name for m in choice.way.machines}
    assert "old does not pay: the run would be worth" in choice.warnings[0]


def test_where_the_pair_does_not_beat_the_best_it_trains_alone() -> None:
    choice = choose([machine("head", None, step_s=50.0), machine("gpu", link(10))], task())
    assert [m.name for m in choice.way.machines] == ["gpu"]
    assert choice.gain == pytest.approx(1.0)
    assert "head does not pay" in choice.warnings[0]
    assert "one worker on gpu" in choice.reason


def test_sums_over_three_where_the_third_link_is_slow_leave_it_out() -> None:
    fast = link(10_000, round_trip_s=1e-4)
    machines = [machine("head", None), machine("a", fast), machine("b", link(0.3))]
    choice = choose(machines, task())
    assert choice.way.strategy == "ddp"
    assert {m.name for m in choice.way.machines} == {"head", "a"}


def test_no_more_workers_sum_than_were_asked_for() -> None:
    fast = link(10_000, round_trip_s=1e-4)
    machines = [machine(name, fast, step_s=0.25, n_workers=2) for name in "abc"]
    choice = choose(machines, task(workers=3))
    assert choice.way.strategy == "ddp"
    assert [m.n_workers for m in choice.way.machines] == [2, 1]
    assert "3 workers were asked for" in choice.warnings[0]


def test_sums_hide_behind_the_way_back() -> None:
    to = link(1000)
    one_way = sums(pair(to), task(), "fp32")
    in_pieces = [
        Machine(m.name, m.n_workers, m.row_s, 0.0, 0.0, rows_at_once=1, link=m.link)
        for m in pair(to)
    ]
    other = sums(in_pieces, task(), "fp32")
    assert one_way is not None
    assert other is not None
    assert one_way.share < other.share


def test_rounds_that_were_asked_for_stay() -> None:
    choice = choose(pair(link(100)), task(round_s=9.5))
    assert choice.way.round_s == 9.5
    # Shorter ones than the link carries are not begun.
    refused = choose(pair(link(100)), task(round_s=1.0))
    assert refused.way.strategy == "single"


def test_islands_that_wait_for_their_round_need_longer_ones() -> None:
    streamed, waiting = (
        shortest_round_s(pair(link(100)), task(is_overlapped=overlaps), "int8")
        for overlaps in (True, False)
    )
    assert waiting > 5 * streamed


def test_the_order_of_machines_changes_nothing() -> None:
    machines = [
        machine(name, None if n == 0 else link(20 * n), step_s=0.4 + 0.2 * n)
        for n, name in enumerate("abcde")
    ]
    said: set[str] = set()
    for seed in range(5):
        shuffled = random.Random(seed).sample(machines, len(machines))
        said.add(json.dumps(choose(shuffled, task()).facts, sort_keys=True))
    assert len(said) == 1


def test_a_run_of_few_rounds_is_not_cut_into_islands() -> None:
    machines = pair(link(100))
    assert choose(machines, task()).way.strategy == "diloco"
    short = choose(machines, task(steps=60))
    assert short.way.strategy == "single"
    assert "other does not pay" in short.warnings[0]


def test_the_reason_tells_the_ways_that_were_not_taken() -> None:
    choice: Choice = choose(pair(link(100)), task())
    assert "islands on head, other in rounds of" in choice.reason
    assert "gradients summed every step in bf16 on head, other: talking would cost" in choice.reason
