from __future__ import annotations

from typing import Any

from mulm.records import Run
from mulm.runs.compare import Contender, compare, differences


def contender(run_id: str, rows: list[dict[str, Any]], **config: Any) -> Contender:
    result = config.pop("result", None)
    return Contender(Run(run_id, "train", config, "succeeded", 0.0, 0.0, result), rows)


def rows(*losses: float, validation: float, every: int = 10) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"step": every * n, "loss": loss, "tokens_per_s": 100.0 * n}
        for n, loss in enumerate(losses, start=1)
    ]
    made[-1]["validation_bits_per_byte"] = validation
    return made


def test_the_best_is_first_and_curves_meet_at_common_steps() -> None:
    worse = contender("run_a", rows(3, 2.5, 2.0, validation=1.9), name="a", seed=0, steps=30)
    better = contender(
        "run_b", rows(2.9, 2.1, validation=1.5, every=15), name="b", seed=0, steps=30,
        result={"model": "b@1", "tokens_per_s": 77.0, "validation_bits_per_byte": 1.5},
    )  # fmt: skip
    found = compare([worse, better])
    assert found.judged_by == "validation_bits_per_byte"
    assert [run["run"] for run in found.runs] == ["run_b", "run_a"]
    assert found.runs[0] == {
        "run": "run_b", "name": "b", "phase": "succeeded", "steps": 30, "loss": 2.1,
        "validation": 1.5, "tokens_per_s": 77.0, "model": "b@1",
    }  # fmt: skip
    assert found.runs[1]["tokens_per_s"] == 200.0
    assert found.differences == {"name": ["b", "a"]}
    assert found.steps == [{"step": 30, "loss": [2.1, 2.0], "validation": [1.5, 1.9]}]


def test_runs_of_other_objectives_are_judged_by_the_loss_that_they_share() -> None:
    preference = [{"step": 10, "loss": 0.5, "validation_preference_loss": 0.6}]
    found = compare([contender("run_a", preference), contender("run_b", rows(0.4, validation=1))])
    assert found.judged_by == "loss"
    assert [run["run"] for run in found.runs] == ["run_b", "run_a"]
    assert found.steps == [{"step": 10, "loss": [0.4, 0.5]}]


def test_a_run_without_numbers_is_last() -> None:
    found = compare([contender("run_a", []), contender("run_b", rows(1.0, validation=1.0))])
    assert found.judged_by is None
    assert found.steps == []
    assert {run["run"] for run in found.runs} == {"run_a", "run_b"}


def test_differences_reach_into_sections_and_lists() -> None:
    one = {"optimizer": {"lr": 0.1, "kind": "muon"}, "model": {}, "layers": [1, 2]}
    two = {"optimizer": {"lr": 0.2, "kind": "muon"}, "model": {"d": 3}, "layers": [1, 2]}
    assert differences([one, two]) == {
        "optimizer.lr": [0.1, 0.2], "model": [{}, "(absent)"], "model.d": ["(absent)", 3],
    }  # fmt: skip
