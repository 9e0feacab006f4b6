"""The cases of the fault suite that need no application, with fewer trials."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from benchmarks.chaos import damage, islands
from benchmarks.chaos.__main__ import CASES
from benchmarks.chaos.callers import Answer, _again_s, _judged
from benchmarks.chaos.case import Case, Outcome, draw_of
from benchmarks.chaos.soak import Sample, _compare
from benchmarks.chaos.victims import KINDS

ALONE = [case for case in CASES if not (case.needs_application or case.needs_machines)]


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_nothing_is_read_as_something_else(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "N_TRIALS", 25)
    outcome = Outcome()
    case.run(None, draw_of(1, case.name), outcome)  # type: ignore[arg-type]
    assert not outcome.wrong


def test_names_and_draws_repeat_a_case() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert draw_of(1, "a").random() == draw_of(1, "a").random() != draw_of(2, "a").random()


@pytest.mark.parametrize("hurt", damage.DAMAGES, ids=lambda hurt: hurt.__name__)
def test_damage_changes_bytes(hurt: damage.Damage) -> None:
    assert any(hurt(b"some bytes", Random(seed)) != b"some bytes" for seed in range(5))


def test_a_reader_that_notices_nothing_is_found_out(tmp_path: Any) -> None:
    """The suite itself fails when what is read is another thing."""
    outcome = Outcome()

    def place(folder: Any) -> Any:
        path = folder / "file"
        path.write_bytes(b"a" * 100)
        return path, path.read_bytes

    damage.damage_again_and_again(place, True, None, Random(1), outcome)  # type: ignore[arg-type]
    assert outcome.wrong


@pytest.mark.parametrize(
    ("status", "headers", "text", "kind"),
    [
        (200, {}, "{}", "ok"),
        (503, {"retry-after": "1"}, '{"error":{"message":"a","type":"b","code":"c"}}', "come back"),
        (503, {}, '{"error":{"message":"a","type":"b","code":"c"}}', "unclean"),
        (503, {"retry-after": "1"}, "gone", "unclean"),
        (500, {"retry-after": "1"}, '{"error":{"message":"a","type":"b","code":"c"}}', "unclean"),
    ],
)
def test_answers_are_judged(status: int, headers: Any, text: str, kind: str) -> None:
    assert _judged(0.0, status, headers, text).kind == kind


def test_answered_again_is_the_first_right_answer_after_the_last_disturbed_one() -> None:
    right = [Answer(n, n + 0.1, "ok", stalled_s=0.1) for n in range(20)]
    assert _again_s(right, 5.0) == 0.0
    cut = [*right[:8], Answer(8, 8.1, "cut"), *right[9:]]
    assert _again_s(cut, 5.0) == pytest.approx(4.1)
    held = [*right[:8], Answer(7, 12.0, "ok", stalled_s=4.5), *right[12:]]
    assert _again_s(held, 5.0) == pytest.approx(7.0)
    assert _again_s([*right, Answer(21, 22, "cut")], 5.0) == float("inf")


def test_what_grows_is_noticed() -> None:
    samples = [Sample(n, 100 + 10 * n, 50, 9, 0.1, 5, 0, 0) for n in range(9)]
    outcome = Outcome()
    _compare(samples, outcome)
    assert outcome.wrong == ["memory_mb grew from 110.0 to 170.0"]


@pytest.mark.parametrize(
    ("loss", "steps", "wrong"),
    [
        (2.1, islands.STEPS, []),
        (1.0, islands.STEPS, []),
        (2.3, islands.STEPS, ["the loss is 15.0% more, 10% is the most"]),
        (2.0, 17, ["the struck run has 17 steps, not 400"]),
    ],
)
def test_islands_that_were_hit_must_have_learned_as_much(
    loss: float, steps: int, wrong: list[str]
) -> None:
    outcome = Outcome()
    whole = {"steps": islands.STEPS, "validation_bits_per_byte": 2.0}
    islands.compare(whole, {"steps": steps, "validation_bits_per_byte": loss}, outcome)
    assert outcome.wrong == wrong


def test_a_run_that_did_not_end_is_no_pass() -> None:
    outcome = Outcome()
    islands.compare({"steps": islands.STEPS, "validation_bits_per_byte": 2.0}, {}, outcome)
    assert outcome.wrong == ["the struck run has None steps, not 400"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ray::OuterSyncHost.port", "aggregator"),
        ("ray::IslandWorker.run", "island"),
        ("ray::LimiterHost", "limiter"),
        ("/home/a/.venv/bin/python -m jobs.keeper []", "keeper"),
    ],
)
def test_victims_are_told_apart_by_their_command_lines(line: str, kind: str) -> None:
    assert [name for name, is_one in KINDS.items() if is_one(line)] == [kind]
