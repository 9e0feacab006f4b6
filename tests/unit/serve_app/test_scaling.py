from __future__ import annotations

from types import SimpleNamespace

import pytest

from mulm.engine.stats import EngineStats
from serve_app.engine_of_model import pressure
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
    ("n_requests", "n_tokens", "expected"),
    [(0, 0, 0.5), (10, 160, 3.0), (10, 10 * 4000, 2500 / 100 + 0.1), (64, 64 * 4000, 160.1)],
)
def test_what_waits_outside_weighs_by_its_tokens_too(n_requests, n_tokens, expected):
    stats = EngineStats(**(IDLE | {"n_running": 2, "n_free_pages": 90}))
    assert pressure(stats, 4, n_requests, n_tokens) == pytest.approx(expected)


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
