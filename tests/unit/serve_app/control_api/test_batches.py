"""`/v1/batches`, by the official client and by hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulm.batch import BatchConfig
from tests.unit.serve_app.control_api.conftest import WEAK_KEY
from tests.unit.serve_app.control_api.test_files import refused, upload
from tests.unit.serve_app.control_api.test_fine_tuning import VALUES, client_of

ROOT = "/v1/batches"
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


@pytest.fixture
def file_id(api) -> str:
    content = json.dumps(LINE).encode()
    return str(upload(api, content, data={"purpose": "batch"}).json()["id"])


@pytest.fixture
def body(file_id) -> dict[str, Any]:
    return {
        "input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h",
    }  # fmt: skip


def test_the_official_client(api, body, ledger, jobs):
    async def check():
        batches = client_of(api).batches
        made = await batches.create(**body, metadata={"who": "me"})
        assert (made.object, made.status, made.input_file_id) == (
            "batch", "validating", body["input_file_id"],
        )  # fmt: skip
        assert (made.metadata, made.output_file_id) == ({"who": "me"}, None)
        [(module, run_id, path)] = jobs.submitted
        assert (module, run_id) == ("jobs.batch", made.id)
        config = BatchConfig.model_validate(json.loads(path.read_bytes()))
        assert config.input is not None
        assert config.key_id == ledger.valid_keys()[0].id

        ledger.set_phase(made.id, "running")
        assert (await batches.retrieve(made.id)).status == "validating"
        progress = {"done": 3, "total": 4, "failed": 1}
        ledger.append_events(made.id, [("progress", progress)])
        told = await batches.retrieve(made.id)
        assert told.status == "in_progress"
        counts = told.request_counts
        assert (counts.total, counts.completed, counts.failed) == (4, 2, 1)
        ledger.append_events(made.id, [("files", {"output": "file_o", "errors": None})])
        ledger.set_phase(made.id, "succeeded", result={"expired": False})
        jobs.stop(made.id)
        ended = await batches.retrieve(made.id)
        assert (ended.status, ended.output_file_id, ended.error_file_id) == (
            "completed", "file_o", None,
        )  # fmt: skip
        assert ended.completed_at is not None
        with pytest.raises(openai.ConflictError):
            await batches.cancel(made.id)

        others = [await batches.create(**body) for _ in range(4)]
        assert len({batch.id for batch in [made, *others]}) == 5
        listed = [batch.id async for batch in batches.list(limit=2)]
        assert sorted(listed) == sorted(batch.id for batch in [made, *others])
        ledger.set_phase(others[0].id, "running")
        assert (await batches.cancel(others[0].id)).status in ("cancelling", "cancelled")
        ledger.set_phase(others[1].id, "succeeded", result={"expired": True})
        jobs.stop(others[1].id)
        assert (await batches.retrieve(others[1].id)).status == "expired"

    asyncio.run(check())


def test_a_failed_batch_tells_which_lines(api, body, ledger, jobs):
    made = api.call("POST", ROOT, json=body).json()
    problem = {"line": 3, "code": "invalid_request", "message": "method: is POST", "param": "m"}
    ledger.append_events(made["id"], [("invalid", {"errors": [problem]})])
    ledger.set_phase(made["id"], "failed", error={"code": "data_invalid", "message": "no"})
    jobs.stop(made["id"])
    told = api.get(f"{ROOT}/{made['id']}")
    assert (told["status"], told["errors"]) == ("failed", {"object": "list", "data": [problem]})
    other = api.call("POST", ROOT, json=body).json()
    ledger.set_phase(other["id"], "failed", error={"code": "not_running", "message": "away"})
    jobs.stop(other["id"])
    [error] = api.get(f"{ROOT}/{other['id']}")["errors"]["data"]
    assert error == {"code": "not_running", "message": "away", "line": None, "param": None}


def test_what_is_sent_twice_is_begun_once(api, body, jobs):
    headers = {"idempotency-key": "once"}
    first = api.call("POST", ROOT, json=body, headers=headers)
    assert api.call("POST", ROOT, json=body, headers=headers).content == first.content
    assert len(jobs.submitted) == 1


@pytest.mark.parametrize(("change", "status", "code", "param"), [
    ({"input_file_id": "file_none"}, 404, "not_found", "input_file_id"),
    ({"input_file_id": "../../etc/passwd"}, 404, "not_found", "input_file_id"),
    ({"input_file_id": None}, 400, "invalid_value", "input_file_id"),
    ({"endpoint": "/v1/files"}, 400, "invalid_value", "endpoint"),
    ({"endpoint": "http://169.254.169.254/"}, 400, "invalid_value", "endpoint"),
    ({"completion_window": "1h"}, 400, "invalid_value", "completion_window"),
    ({"output_expires_after": {"seconds": 1}}, 400, "unsupported_parameter",
     "output_expires_after"),
    ({"metadata": {"a": 1}}, 400, "invalid_value", "metadata.a"),
    ({"meta": {}}, 400, "unknown_parameter", "meta"),
])  # fmt: skip
def test_impossible_batches(api, body, jobs, ledger, change, status, code, param):
    error = refused(api.call("POST", ROOT, json=body | change), status)
    assert (error["code"], error["param"]) == (code, param)
    assert jobs.submitted == []
    assert ledger.runs() == []


def test_a_file_for_something_else(api, body, jobs):
    other = upload(api).json()["id"]
    error = refused(api.call("POST", ROOT, json=body | {"input_file_id": other}), 400)
    assert error["param"] == "input_file_id"
    assert jobs.submitted == []


def test_other_runs_are_no_batches(api, ledger):
    ledger.create_run("run_other", "train", {"name": "x"})
    for batch_id in ("run_other", "run_none", "%00", "x" * 3000):
        refused(api.call("GET", f"{ROOT}/{batch_id}"), 404)
        refused(api.call("POST", f"{ROOT}/{batch_id}/cancel"), 404)
    refused(api.call("GET", f"{ROOT}?after=run_other"), 404)


def test_keys_for_inference_may_not(api, body, jobs):
    refused(api.call("POST", ROOT, json=body, key=WEAK_KEY), 403)
    assert jobs.submitted == []


@given(fields=st.dictionaries(
    st.sampled_from(["endpoint", "completion_window", "metadata", "input_file_id", "x"]),
    VALUES, max_size=3,
))  # fmt: skip
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_sent_is_answered_or_refused(api, body, fields):
    content = json.dumps(body | fields).encode()
    reply = api.call("POST", ROOT, content=content, headers={"content-type": "application/json"})
    if reply.status_code == 200:
        assert reply.json()["object"] == "batch"
        return
    assert 400 <= reply.status_code < 500, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
