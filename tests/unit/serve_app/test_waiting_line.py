from __future__ import annotations

from mulm.messages import GenerateRequest
from serve_app.waiting_line import Asking, WaitingLine
from tests.unit.quick import shortest_s


def asking(number: int, n_tokens: int = 1) -> Asking:
    return Asking("m", GenerateRequest(f"r{number}", (1,) * n_tokens), (), float(number))


def order(line: WaitingLine) -> list[str]:
    found = []
    while line:
        found.append(line.first.request.request_id)
        line.discard(line.first)
    return found


def test_who_came_first_is_first_and_tokens_add_up():
    line, all_of_them = WaitingLine(), [asking(n, n) for n in range(4)]
    for each in all_of_them:
        line.add(each)
    assert (len(line), line.n_tokens) == (4, 6)
    line.discard(all_of_them[1])
    line.discard(all_of_them[1])
    assert (len(line), line.n_tokens) == (3, 5)
    assert order(line) == ["r0", "r2", "r3"]
    assert line.n_tokens == 0


def test_those_that_were_called_for_nothing_wait_in_their_old_order():
    line, all_of_them = WaitingLine(), [asking(n) for n in range(5)]
    for each in all_of_them[3:]:
        line.add(each)
    for number in (1, 0, 2):
        line.add_again(all_of_them[number])
    assert order(line) == ["r0", "r1", "r2", "r3", "r4"]


def test_a_hundred_thousand_cost_each_no_more_than_a_few():
    def seconds(n_waiting: int) -> float:
        line, others = WaitingLine(), [asking(n) for n in range(n_waiting)]
        for each in others:
            line.add(each)

        def come_and_go() -> None:
            for number in range(500):
                new = asking(n_waiting + number)
                line.add(new)
                middle = others[n_waiting // 2 + number % 25]
                line.discard(middle)
                line.add(middle)
                line.discard(new)
                assert line.first is others[0]
                assert line.n_tokens == n_waiting

        return shortest_s(come_and_go, 0.0)

    assert seconds(100_000) < 20 * seconds(100)
