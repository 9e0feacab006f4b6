from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mulm.data.executor import InProcess, Made, Product
from mulm.errors import DataError

Threads = Callable[[], int]


@pytest.fixture
def n_new_threads() -> Threads:
    before = threading.active_count()
    return lambda: threading.active_count() - before


def spell(word: str) -> Iterator[Product]:
    for letter in word:
        yield Product(letter, letter.encode())


def by_task(made: Iterator[Made], n_tasks: int) -> list[list[str]]:
    """The names that each task made, after checking that nothing comes after its end."""
    names: list[list[str]] = [[] for _ in range(n_tasks)]
    ended = set()
    for place, product in made:
        assert place not in ended
        if product is None:
            ended.add(place)
        else:
            names[place].append(product.name)
    assert ended == set(range(n_tasks))
    return names


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_threads_make_what_one_makes(n_threads: int, n_new_threads: Threads) -> None:
    words = ["", "one", "two", "three", "", "four"] * 5
    assert by_task(InProcess(n_threads).run(spell, words), len(words)) == list(map(list, words))
    assert n_new_threads() == 0


@pytest.mark.parametrize("n_threads", [1, 3])
def test_no_tasks(n_threads: int) -> None:
    assert list(InProcess(n_threads).run(spell, [])) == []


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_comes_out_and_all_threads_end(n_threads: int, n_new_threads: Threads) -> None:
    def fail_at_five(number: int) -> Iterator[Product]:
        yield Product(str(number), b"")
        if number == 5:
            raise DataError("task five", hint="do not")

    made: list[Made] = []
    with pytest.raises(DataError, match="task five") as caught:
        made.extend(InProcess(n_threads).run(fail_at_five, range(1000)))
    assert caught.value.hint == "do not"
    assert len(made) < 100
    assert n_new_threads() == 0


@pytest.mark.parametrize("n_threads", [1, 3])
def test_who_stops_early_leaves_no_thread(n_threads: int, n_new_threads: Threads) -> None:
    made = InProcess(n_threads).run(spell, ["endless"] * 1000)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert n_new_threads() == 0


def test_stopping_does_not_wait_for_the_rest_of_a_task(n_new_threads: Threads) -> None:
    made_of_one = []

    def endless(number: int) -> Iterator[Product]:
        for nth in range(5000):
            made_of_one.append(nth)
            yield Product(str(nth), b"")
            time.sleep(0.0001)

    made = InProcess(2).run(endless, [0, 1])
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert n_new_threads() == 0
    assert len(made_of_one) < 1000


def test_only_some_products_wait() -> None:
    n_threads, made, has_settled = 2, [], threading.Event()

    def count(number: int) -> Iterator[Product]:
        for nth in range(20):
            made.append((number, nth))
            yield Product(str(nth), b"")

    results = InProcess(n_threads).run(count, range(50))
    for n_taken, _ in enumerate(results, 1):
        if n_taken % 100 == 0:
            has_settled.wait(0.02)  # what could be made meanwhile is made
        assert len(made) <= n_taken + 2 * n_threads + 1
    assert len(made) == 50 * 20


def test_several_tasks_are_under_way_at_once() -> None:
    both = threading.Barrier(2, timeout=5)

    def meet(number: int) -> Iterator[Product]:
        both.wait()
        yield Product(str(number), b"")

    assert by_task(InProcess(2).run(meet, [0, 1]), 2) == [["0"], ["1"]]
