"""`/v1/fine_tuning/jobs`, by the official client and by hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulm.manifest import Manifest
from mulm.records import Phase
from mulm.testing import tiny_stored_model, tiny_tokenizer
from mulm.train.fine_tune import FineTuneConfig
from serve_app.openai_api.fine_tuning import STATUS
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY
from tests.unit.serve_app.control_api.test_files import refused, upload

ROOT = "/v1/fine_tuning/jobs"
CHATS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def base(ledger, store) -> None:
    """`tiny@1` with a tokenizer that has a name."""
    tokenizer = tiny_tokenizer()
    own = Manifest(
        kind="tokenizer", code_version="0", config={},
        tokenizer_fingerprint=tokenizer.fingerprint, counts={"vocab_size": tokenizer.vocab_size},
        blobs=(store.put("tokenizer.json", tokenizer.to_bytes()),),
    )  # fmt: skip
    store.save(own)
    ledger.publish("tokenizer", "words", own.id)
    model = tiny_stored_model(store, tokenizer).model_copy(update={"parents": {"t": own.id}})
    store.save(model)
    ledger.publish("model", "tiny", model.id)


@pytest.fixture
def file_id(api) -> str:
    return str(upload(api, CHATS * 20).json()["id"])


@pytest.fixture
def body(base, file_id) -> dict[str, Any]:
    return {"model": "tiny", "training_file": file_id}


def client_of(api: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=KEY, base_url="http://test/v1", max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api.app)),
    )  # fmt: skip


def test_the_official_client(api, body, ledger, jobs):
    async def check():
        tuning = client_of(api).fine_tuning.jobs
        made = await tuning.create(
            **body, suffix="mine", seed=3, metadata={"who": "me"},
            method={"type": "supervised", "supervised": {"hyperparameters": {
                "n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}}},
        )  # fmt: skip
        assert (made.object, made.status, made.seed) == ("fine_tuning.job", "queued", 3)
        assert made.training_file == body["training_file"]
        assert made.hyperparameters.n_epochs == 2
        assert made.metadata == {"who": "me"}
        assert (made.model, made.fine_tuned_model, made.finished_at) == ("tiny@1", None, None)
        [(module, run_id, path)] = jobs.submitted
        assert (module, run_id) == ("jobs.fine_tune", made.id)
        config = FineTuneConfig.model_validate(json.loads(path.read_bytes()))
        assert (config.name, config.batch_size) == ("tiny-mine", 4)
        assert config.training is not None
        assert config.training.name == "lines.jsonl"

        ledger.set_phase(made.id, "running")
        for step in range(1, 6):
            ledger.append_events(made.id, [("metric", {"step": step, "loss": 1 / step})])
        ledger.append_events(made.id, [("checkpoint", {"step": 5, "is_best": True})])
        assert (await tuning.retrieve(made.id)).status == "running"
        told = [event async for event in tuning.list_events(made.id, limit=2)]
        assert [event.id for event in told] == [f"ftevent_{n}" for n in range(7, 0, -1)]
        assert (told[0].message, told[1].type) == ("checkpoint at step 5", "metrics")
        [checkpoint] = [c async for c in tuning.checkpoints.list(made.id)]
        assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (5, 0.2)

        result = {"model": "tiny-mine@1", "trained_tokens": 123}
        ledger.set_phase(made.id, "succeeded", result=result)
        jobs.stop(made.id)
        ended = await tuning.retrieve(made.id)
        assert (ended.status, ended.fine_tuned_model) == ("succeeded", "tiny-mine@1")
        assert (ended.trained_tokens, ended.finished_at is not None) == (123, True)
        with pytest.raises(openai.ConflictError):
            await tuning.cancel(made.id)
        others = [await tuning.create(**body, seed=seed) for seed in range(4)]
        listed = [job.id async for job in tuning.list(limit=2)]
        assert set(listed) == {made.id, *(job.id for job in others)}
        assert len(listed) == 5
        assert (await tuning.cancel(others[0].id)).status == "cancelled"

    asyncio.run(check())


def test_every_phase_has_a_word():
    assert set(STATUS) == set(get_args(Phase))


def test_a_failed_job_tells_why_and_goes_on(api, body, ledger, jobs):
    made = api.call("POST", ROOT, json=body).json()
    error = {"code": "data_invalid", "message": "no document is left", "hint": "give some"}
    ledger.set_phase(made["id"], "failed", error=error)
    jobs.stop(made["id"])
    told = api.get(f"{ROOT}/{made['id']}")
    assert told["error"] == {
        "code": "data_invalid", "message": "no document is left", "param": None
    }  # fmt: skip
    assert api.call("POST", f"{ROOT}/{made['id']}/resume").status_code == 200
    assert len(jobs.submitted) == 2


def test_a_job_is_a_run(api, body):
    made = api.call("POST", ROOT, json=body).json()
    run = api.get(f"/api/v1/runs/{made['id']}")
    assert (run["kind"], run["name"]) == ("fine_tune", "tiny-ft")
    assert run["references"] == {"model": {"kind": "model", "ref": "tiny@1"}}
    assert api.call("POST", ROOT, json=body).json()["id"] == made["id"], "the same is the same"


def test_what_is_sent_twice_is_begun_once(api, body, jobs):
    headers = {"idempotency-key": "once"}
    first = api.call("POST", ROOT, json=body, headers=headers)
    again = api.call("POST", ROOT, json=body, headers=headers)
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    refused(api.call("POST", ROOT, json=body | {"seed": 2}, headers=headers), 422)
    assert len(jobs.submitted) == 1


BAD: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "none"}, 404, "not_found", None),
    ({"model": "../up"}, 400, "config_invalid", None),
    ({"model": "m" * 1000}, 400, "invalid_value", "model"),
    ({"training_file": "file_none"}, 404, "not_found", "training_file"),
    ({"training_file": "../../etc/passwd"}, 404, "not_found", "training_file"),
    ({"validation_file": "file_none"}, 404, "not_found", "validation_file"),
    ({"training_file": None}, 400, "invalid_value", "training_file"),
    ({"suffix": "No Name"}, 400, "invalid_value", "suffix"),
    ({"suffix": "x" * 41}, 400, "invalid_value", "suffix"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, 400, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 10**30}}, 400, "invalid_value",
     "hyperparameters.batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, 400, "invalid_value",
     "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"beta": 1}}, 400, "unknown_parameter", "hyperparameters.beta"),
    ({"hyperparameters": {"n_epochs": 1}, "method": {"type": "supervised"}}, 400, "invalid_value",
     "hyperparameters"),
    ({"method": {"type": "dpo"}}, 400, "unsupported_parameter", "method.type"),
    ({"integrations": [{"type": "wandb"}]}, 400, "unsupported_parameter", "integrations"),
    ({"seed": -1}, 400, "invalid_value", "seed"),
    ({"metadata": {str(n): "" for n in range(17)}}, 400, "invalid_value", "metadata"),
    ({"sed": 1}, 400, "unknown_parameter", "sed"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "code", "param"), BAD, ids=lambda v: str(v)[:40])
def test_impossible_jobs(api, body, jobs, ledger, change, status, code, param):
    error = refused(api.call("POST", ROOT, json=body | change), status)
    assert (error["code"], error["param"]) == (code, param)
    assert jobs.submitted == []
    assert ledger.runs() == []


def test_a_file_for_something_else(api, body, jobs):
    other = upload(api, CHATS, data={"purpose": "batch"}).json()["id"]
    for field in ("training_file", "validation_file"):
        error = refused(api.call("POST", ROOT, json=body | {field: other}), 400)
        assert (error["param"], "fine-tune" in error["message"]) == (field, True)
    assert jobs.submitted == []


def test_other_runs_are_no_jobs(api, body, ledger):
    ledger.create_run("run_other", "train", {"name": "x"})
    for method, path in (
        ("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/cancel"),
        ("POST", "/pause"), ("POST", "/resume"),
    ):  # fmt: skip
        for job_id in ("run_other", "run_none", "%00", "x" * 3000):
            refused(api.call(method, f"{ROOT}/{job_id}{path}"), 404)
    refused(api.call("GET", f"{ROOT}?after=run_other"), 404)
    made = api.call("POST", ROOT, json=body).json()
    for after in ("x", "ftevent_", "ftevent_x", "ftevent_" + "9" * 30, "ftckpt_1"):
        refused(api.call("GET", f"{ROOT}/{made['id']}/events?after={after}"), 404)
    assert api.get(f"{ROOT}/{made['id']}/events?after=ftevent_{10**17}")["data"] == []


def test_keys_for_inference_may_not(api, body, jobs):
    refused(api.call("POST", ROOT, json=body, key=WEAK_KEY), 403)
    refused(api.call("GET", ROOT, key=WEAK_KEY), 403)
    assert jobs.submitted == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    | st.sampled_from(["auto", "tiny", "supervised"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["n_epochs", "type", "hyperparameters", "supervised", "x"]), inner,
        max_size=3),
    max_leaves=8,
)  # fmt: skip
NAMES = sorted({"model", "suffix", "seed", "hyperparameters", "method", "metadata", "lora", "x"})


@given(fields=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_sent_is_answered_or_refused(api, body, jobs, fields):
    before = len(jobs.submitted)
    content = json.dumps(body | fields).encode()
    reply = api.call("POST", ROOT, content=content, headers={"content-type": "application/json"})
    if reply.status_code == 200:
        assert reply.json()["object"] == "fine_tuning.job"
        return
    assert 400 <= reply.status_code < 500, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert len(jobs.submitted) == before
