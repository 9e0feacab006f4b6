from __future__ import annotations

import time

import pytest

from mulm.accounts import UsageRow
from tests.unit.serve_app.control_api.conftest import WEAK_KEY

ROOT = "/api/v1/usage"
HOUR_S = 3600
TODAY_S = int(time.time()) // 86400 * 86400


@pytest.fixture
def used(ledger):
    rows = [
        UsageRow("key_1", "a", TODAY_S - 2 * 86400, 1, 10, 1),
        UsageRow("key_1", "a", TODAY_S - 86400, 2, 20, 2),
        UsageRow("key_1", "a", TODAY_S - 86400 + HOUR_S, 3, 30, 3),
        UsageRow("key_2", "b", TODAY_S - 86400, 4, 40, 4),
        UsageRow("key_2", "b", TODAY_S - 200 * 86400, 5, 50, 5),
    ]
    ledger.add_usage("w", 1, rows)


def told(found) -> list[tuple]:
    return [(row["start_at"] - TODAY_S, row["key"], row["model"], row["requests"]) for row in found]


def test_usage_by_hour_and_by_day(api, used):
    hours = api.get(ROOT)["data"]
    assert told(hours) == [
        (-2 * 86400, "key_1", "a", 1),
        (-86400, "key_1", "a", 2),
        (-86400, "key_2", "b", 4),
        (-86400 + HOUR_S, "key_1", "a", 3),
    ]
    assert (hours[1]["input_tokens"], hours[1]["output_tokens"]) == (20, 2)
    assert told(api.get(f"{ROOT}?bucket=day&key=key_1")["data"]) == [
        (-2 * 86400, "key_1", "a", 1),
        (-86400, "key_1", "a", 5),
    ]
    assert len(api.get(f"{ROOT}?bucket=day&model=b&from=0")["data"]) == 2
    middle = f"from={TODAY_S - 86400}&to={TODAY_S - 86400 + 1}"
    assert len(api.get(f"{ROOT}?{middle}")["data"]) == 2


def test_usage_page_by_page(api, used):
    first = api.get(f"{ROOT}?limit=3")
    rest = api.get(f"{ROOT}?limit=3&after={first['last_id']}")
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert told(first["data"] + rest["data"]) == told(api.get(ROOT)["data"])


def test_a_key_tells_what_it_has_used_and_what_is_left(api, used):
    assert api.get("/api/v1/keys/key_2")["usage"] == {
        "requests": 9, "input_tokens": 90, "output_tokens": 9, "quota_left": None,
        "by_model": {"b": 99},
    }  # fmt: skip
    api.call("PATCH", "/api/v1/keys/key_2", json={"limits": {"token_quota": 100}})
    assert api.get("/api/v1/keys/key_2")["usage"]["quota_left"] == 1
    api.call("PATCH", "/api/v1/keys/key_2", json={"limits": {"token_quota": 50}})
    assert api.get("/api/v1/keys/key_2")["usage"]["quota_left"] == 0


def test_what_is_no_question_is_refused(api):
    for words in ("bucket=minute", "from=-1", "from=x", "limit=0", f"to={2**41}", "from=5&to=5"):
        api.refused("GET", f"{ROOT}?{words}", 400)
    assert api.refused("GET", f"{ROOT}?after=x", 404)["param"] == "after"
    api.refused("GET", ROOT, 403, key=WEAK_KEY)
