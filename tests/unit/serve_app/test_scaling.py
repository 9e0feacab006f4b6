from __future__ import annotations

from types import SimpleNamespace

import pytest

from mulm.engine.stats import EngineStats
from serve_app.engine_of_model import pressure
from serve_app.prefix_key import home_of, key_of
from serve_app.scaling import by_pressure

IDLE = dict.fromkeys(EngineStats.__dataclass_fields__, 0) | {"n_pages": 100, "n_free_pages": 100}


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({}, 0.0),
        ({"n_running": 2}, 0.5),
        ({"n_running": 4, "n_waiting": 4}, 2.0),
        ({"n_running": 1, "n_free_pages": 40}, 0.6),
        ({"n_running": 1, "n_free_pages": 40, "waiting_tokens": 160 * 16}, 2.2),
    ],
)
def test_an_engine_is_as_full_as_its_slots_or_its_pages(stats, expected):
    assert pressure(EngineStats(**(IDLE | stats)), n_slots=4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pressures", "n_queued", "expected"),
    [({}, 0, 0), ({"a": 0.3, "b": 0.3}, 0, 0.6), ({"a": 2.2}, 0, 2.2), ({"a": 1.0}, 8, 3.0)],
)
def test_engines_are_wanted_for_the_work_there_is(pressures, n_queued, expected):
    context = SimpleNamespace(
        aggregated_metrics={"pressure": pressures} if pressures else None,
        total_queued_requests=n_queued,
        config=SimpleNamespace(target_ongoing_requests=4),
    )
    wanted, state = by_pressure(context)
    assert wanted == pytest.approx(expected)
    assert state == {}


def test_prompts_that_begin_alike_have_one_key_and_short_ones_none():
    beginning = list(range(128))
    assert key_of([*beginning, 1, 2]) == key_of([*beginning, 3])
    assert key_of(beginning) != key_of([1, *beginning[1:]])
    assert key_of(range(47)) == ""


def test_an_engine_more_moves_few_keys():
    keys = [key_of(range(n, n + 60)) for n in range(300)]
    names = ["a", "b", "c"]
    before = {key: home_of(key, names) for key in keys}
    assert all(60 < list(before.values()).count(name) < 140 for name in names)
    after = {key: home_of(key, [*names, "d"]) for key in keys}
    moved = {after[key] for key in keys if after[key] != before[key]}
    assert moved == {"d"}
