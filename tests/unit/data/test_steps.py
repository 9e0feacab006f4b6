from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mulm.data.executor import InProcess, Made, Product, Work
from mulm.data.steps import Stage, StageProgress, Steps, silent
from mulm.errors import NoSpaceError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

Events = list[tuple[str, dict[str, Any]]]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Worker:
    """Spells words, and notes which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, word: str) -> Iterator[Product]:
        self.asked.append(word)
        for letter in word:
            yield Product(f"{letter}.txt", f"{word}:{letter}".encode(), rows=1)


class KilledAfter:
    """An executor whose process ends when so many tasks have."""

    def __init__(self, n_tasks: int) -> None:
        self._left = n_tasks

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        for place, product in InProcess().run(work, tasks, stays_here=stays_here):
            if not self._left:
                raise KeyboardInterrupt
            yield place, product
            self._left -= product is None


class Reversed:
    """An executor that does the last task first."""

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        for place, product in InProcess().run(work, tasks[::-1], stays_here=stays_here):
            yield len(tasks) - 1 - place, product


WORDS = ["ab", "", "cde", "f"]


def stage(work: Work, words: list[str] = WORDS) -> Stage:
    sizes = [1_000_000 * len(word) for word in words]
    return Stage("spell", work, words, [{"word": word} for word in words], sizes)


def contents(store: Store, made: list[tuple[BlobEntry, ...]]) -> list[list[bytes]]:
    return [[store.read(entry) for entry in blobs] for blobs in made]


EXPECTED = [[f"{word}:{letter}".encode() for letter in word] for word in WORDS]


def test_a_step_runs_once(store: Store) -> None:
    made: list[Manifest] = []
    events: Events = []
    steps = Steps(store, lambda kind, **data: events.append((kind, data)), "v1")

    def make() -> Manifest:
        blobs = (store.put("a", b"content"),)
        made.append(Manifest(kind="documents", code_version="v1", config={}, blobs=blobs))
        return made[-1]

    for _ in range(2):
        assert steps.run("read", {"x": 1}, make, lambda _: "one file") == made[0]
    assert len(made) == 1
    assert [data["text"] for _, data in events] == ["one file", "one file, known already"]
    steps.run("read", {"x": 2}, make, lambda _: "")
    Steps(store, lambda kind, **data: None, "v2").run("read", {"x": 1}, make, lambda _: "")
    assert len(made) == 3


def test_a_damaged_result_is_made_again(store: Store) -> None:
    def make() -> Manifest:
        blobs = (store.put("a", b"content"),)
        return Manifest(kind="documents", code_version="v", config={}, blobs=blobs)

    steps = Steps(store, silent, "v")
    [entry] = steps.run("read", {}, make, lambda _: "").blobs
    damage(store, entry)
    assert store.read(steps.run("read", {}, make, lambda _: "").blobs[0]) == b"content"


@pytest.mark.parametrize("executor", [InProcess(1), InProcess(3), Reversed()])
def test_tasks_are_worked_on_once(store: Store, executor: InProcess) -> None:
    steps, worker = Steps(store, silent, "v"), Worker()
    made = steps.each(stage(worker), executor)
    assert contents(store, made) == EXPECTED
    assert [[entry.rows for entry in blobs] for blobs in made] == [[1, 1], [], [1, 1, 1], [1]]
    assert sorted(worker.asked) == sorted(WORDS)
    again = steps.each(stage(worker), executor)
    assert again == made
    assert len(worker.asked) == len(WORDS)


@pytest.mark.parametrize("n_done", range(len(WORDS)))
def test_what_was_killed_goes_on_where_it_was(store: Store, n_done: int) -> None:
    steps, worker = Steps(store, silent, "v"), Worker()
    with pytest.raises(KeyboardInterrupt):
        steps.each(stage(worker), KilledAfter(n_done))
    worker.asked.clear()
    assert contents(store, steps.each(stage(worker), InProcess())) == EXPECTED
    assert worker.asked == WORDS[n_done:]


def test_only_the_damaged_task_is_made_again(store: Store) -> None:
    steps, worker = Steps(store, silent, "v"), Worker()
    made = steps.each(stage(worker), InProcess())
    damage(store, made[2][1])
    worker.asked.clear()
    again = steps.each(stage(worker), InProcess())
    assert worker.asked == [WORDS[2]]
    assert contents(store, again) == EXPECTED


def test_other_inputs_names_or_code_are_other_tasks(store: Store) -> None:
    worker = Worker()
    Steps(store, silent, "v").each(stage(worker), InProcess())
    Steps(store, silent, "v").each(stage(worker, [*WORDS, "new"]), InProcess())
    assert worker.asked == [*WORDS, "new"]
    Steps(store, silent, "w").each(stage(worker), InProcess())
    assert worker.asked == [*WORDS, "new", *WORDS]


def test_only_what_is_not_known_needs_space(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    steps = Steps(store, silent, "v")
    expected = steps.each(stage(worker), InProcess())
    free = shutil.disk_usage("/")._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert steps.each(replace(stage(worker), space_per_byte=3), InProcess()) == expected
    more = replace(stage(worker, [*WORDS, "abc"]), space_per_byte=3)
    assert len(steps.each(more, InProcess())) == len(WORDS) + 1
    with pytest.raises(NoSpaceError, match="12 MB are needed"):
        steps.each(replace(stage(worker, [*WORDS, "abcd"]), space_per_byte=3), InProcess())


def test_a_full_disk_ends_it_and_the_threads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> BlobEntry:
        raise NoSpaceError("no space left")

    monkeypatch.setattr(store, "put", full, raising=True)
    with pytest.raises(NoSpaceError):
        Steps(store, silent, "v").each(stage(Worker()), InProcess(2))


def test_progress_is_told_in_order_up_to_the_total(store: Store) -> None:
    clock, events = Clock(), Events()
    steps = Steps(store, lambda kind, **data: events.append((kind, data)), "v", clock)

    def work(word: str) -> Iterator[Product]:
        clock.now_s += 2.0 * len(word)
        yield Product(word, word.encode())

    steps.each(stage(work), InProcess())
    assert {kind for kind, _ in events} == {"progress"}
    told = [data for _, data in events]
    assert [data["done"] for data in told] == [0.0, 2.0, 5.0, 6.0]
    assert all(data["total"] == 6.0 and data["unit"] == "MB" for data in told)
    assert all(data["stage"] == "spell" for data in told)
    assert [data["rate_per_s"] for data in told] == [0.0, 0.5, 0.5, 0.5]
    assert [data["eta_s"] for data in told] == [None, 8.0, 2.0, 0.0]


def test_what_was_done_before_is_no_speed(store: Store) -> None:
    clock, events = Clock(), Events()
    steps = Steps(store, lambda kind, **data: events.append((kind, data)), "v", clock)

    def work(word: str) -> Iterator[Product]:
        clock.now_s += 4.0
        yield Product(word, word.encode())

    steps.each(stage(work, ["abc"]), InProcess())
    events.clear()
    steps.each(stage(work, ["abc", "d"]), InProcess())
    assert [(d["done"], d["rate_per_s"]) for _, d in events] == [(3.0, 0.0), (4.0, 0.25)]
    events.clear()
    steps.each(stage(work, ["abc", "d"]), InProcess())
    assert [(d["done"], d["total"]) for _, d in events] == [(4.0, 4.0)]


def test_many_small_tasks_tell_now_and_then(store: Store) -> None:
    clock, events = Clock(), Events()
    steps = Steps(store, lambda kind, **data: events.append((kind, data)), "v", clock)
    progress = StageProgress(steps, "count", 1000, unit="documents")
    for _ in range(1000):
        clock.now_s += 0.01
        progress.advance(1)
    assert 18 <= len(events) <= 22
    assert events[-1][1]["done"] == events[-1][1]["total"] == 1000
    assert events[-1][1]["unit"] == "documents"
    assert events[-1][1]["rate_per_s"] == pytest.approx(100, rel=0.01)


def damage(store: Store, entry: BlobEntry) -> None:
    path = store.path(entry)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
