"""The page on a resource of one's own says what works."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[4] / "docs/tutorial-resource.md"
PATH = "/api/v1/leaderboard"


def test_the_resource_of_the_tutorial_works(api, ledger):
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    leaderboard = ModuleType("leaderboard")
    exec(compile(code, str(PAGE), "exec"), leaderboard.__dict__)
    api.refused("GET", PATH, 404)
    api.app.include_router(leaderboard.router)
    assert api.call("GET", PATH, key="mulm_sk_wrong").status_code == 401
    assert api.call("GET", PATH, key="mulm_sk_" + "w" * 43).status_code == 403
    for number, (model, bits) in enumerate([("a@1", 3.0), ("b@1", 2.0), ("a@1", 1.0)]):
        ledger.create_run(f"run_{number}", "evaluate", {"model": model})
        ledger.set_phase(f"run_{number}", "succeeded", result={"bits_per_byte": bits})
    ranked = api.get(PATH)["data"]
    assert {row["id"] for row in ranked} == {"a@1", "b@1"}
    assert [row["bits_per_byte"] for row in ranked] == sorted(r["bits_per_byte"] for r in ranked)
    first = api.get(f"{PATH}?limit=1")
    assert first["has_more"]
    rest = api.get(f"{PATH}?after={first['last_id']}")["data"]
    assert [*first["data"], *rest] == ranked
    api.app.openapi_schema = None
    assert "403" in api.app.openapi()["paths"][PATH]["get"]["responses"]
