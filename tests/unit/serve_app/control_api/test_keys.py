from __future__ import annotations

import pytest

from mulm.errors import NotFoundError
from serve_app.auth import digest_of
from tests.unit.serve_app.control_api.conftest import WEAK_KEY

ROOT = "/api/v1/keys"


def test_a_key_is_shown_once_and_known_by_its_digest_alone(api, ledger):
    reply = api.call("POST", ROOT, json={"name": "a friend"})
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
    made = reply.json()
    assert made["scope"] == "inference", "the lesser one unless asked for"
    assert ledger.key_digests()[digest_of(made["key"])] == made["id"]
    listed = api.call("GET", ROOT).text
    assert made["id"] in listed
    assert "mulm_sk_" not in listed
    assert api.call("GET", "/openapi.json", key=made["key"]).status_code == 200


def test_a_revoked_key_is_none_any_more(api, ledger):
    assert api.call("DELETE", f"{ROOT}/key_2").status_code == 204
    with pytest.raises(NotFoundError):
        ledger.key("key_2")
    assert api.refused("DELETE", f"{ROOT}/key_2", 404)["code"] == "not_found"
    assert api.refused("GET", ROOT, 401, key=WEAK_KEY)["code"] == "unauthorized"
    assert api.refused("DELETE", f"{ROOT}/key_1", 409)["code"] == "conflict", "not itself"


def test_a_key_for_inference_opens_nothing_of_the_control_api(api):
    paths = api.call("GET", "/openapi.json").json()["paths"]
    seen = 0
    for path, methods in paths.items():
        if path.startswith("/api/"):
            for method in methods:
                url = path.replace("{kinds}", "models").replace("{", "x").replace("}", "")
                problem = api.refused(method.upper(), url, 403, key=WEAK_KEY, json={"name": "x"})
                assert problem["code"] == "forbidden"
                seen += 1
    assert seen >= 15
    assert api.call("GET", "/v1/models", key=WEAK_KEY).status_code == 503, "no model is served"


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "a\nb"}, {"name": "a", "scope": "x"}])
def test_what_is_no_key_is_not_made(api, ledger, body):
    api.refused("POST", ROOT, 400, json=body)
    assert len(ledger.valid_keys()) == 2
