from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest
from openai.pagination import AsyncCursorPage

from mulm.ledger import Ledger
from mulm.runs.kinds import SCHEMAS
from mulm.train.config import TrainConfig

CONFIG = {"name": "made", "dataset": "text", "steps": 5}
ROOT = "/api/v1/runs"


@pytest.fixture
def runs(ledger: Ledger) -> list[str]:
    """Five runs, the last made first in lists; the third has failed."""
    names = [f"run_{number:012x}" for number in range(5)]
    for name in names:
        config = TrainConfig(name=name, dataset="text@1")
        ledger.create_run(name, "train", config.model_dump(mode="json"))
        ledger.append_events(name, [("metric", {"step": n, "loss": 1 / n}) for n in range(1, 4)])
        ledger.set_phase(name, "succeeded", result={"model": f"{name}@1"})
    ledger.set_phase(names[2], "failed", error={"code": "job_failed", "message": "no", "hint": ""})
    return names


def test_runs_are_listed_newest_first_page_by_page(api, runs):
    first = api.get(f"{ROOT}?limit=2")
    assert [run["id"] for run in first["data"]] == runs[:2:-1]
    assert first["has_more"] is True
    rest = api.get(f"{ROOT}?limit=100&after={first['last_id']}")
    assert [run["id"] for run in rest["data"]] == runs[2::-1]
    assert rest["has_more"] is False
    [failed] = api.get(f"{ROOT}?phase=failed")["data"]
    assert (failed["id"], failed["error"]["code"]) == (runs[2], "job_failed")
    assert api.get(f"{ROOT}?kind=prepare")["data"] == []
    assert api.refused("GET", f"{ROOT}?kind=prepar", 400)["hint"] == "did you mean 'prepare'?"
    assert api.refused("GET", f"{ROOT}?after=run_none", 404)["code"] == "not_found"
    assert api.refused("GET", f"{ROOT}?limit=0", 400)["param"] == "limit"


def test_the_official_clients_pager_works_on_them(api, runs):
    async def ids():
        transport = httpx2.ASGITransport(app=api.app)
        client = openai.AsyncOpenAI(
            api_key="mulm_sk_" + "k" * 43,
            base_url="http://test/api/v1",
            http_client=httpx2.AsyncClient(transport=transport),
        )

        class Item(openai.BaseModel):
            id: str

        pager = client.get_api_list(
            "/runs",
            model=Item,
            page=AsyncCursorPage[Item],
            options={"params": {"limit": 2}},
        )
        return [item.id async for item in pager]

    assert asyncio.run(ids()) == runs[::-1]


def test_one_run_with_what_it_reads(api, runs):
    run = api.get(f"{ROOT}/{runs[0]}")
    assert run["references"] == {"dataset": {"kind": "dataset", "ref": "text@1"}}
    assert run["config"]["name"] == runs[0]
    assert run["result"] == {"model": f"{runs[0]}@1"}
    assert api.refused("GET", f"{ROOT}/run_none", 404)["hint"]


def test_events_page_by_page_and_the_curve(api, runs):
    first = api.get(f"{ROOT}/{runs[0]}/events?limit=3")
    assert [event["data"]["step"] for event in first["data"]] == [1, 2, 3]
    assert first["has_more"] is True
    rest = api.get(f"{ROOT}/{runs[0]}/events?after={first['last_id']}")
    assert [event["kind"] for event in rest["data"]] == ["phase"]
    assert len(api.get(f"{ROOT}/{runs[0]}/events?kind=phase")["data"]) == 1
    curve = api.get(f"{ROOT}/{runs[0]}/metrics?last=2")["data"]
    assert curve == [{"step": 2, "loss": 0.5}, {"step": 3, "loss": 1 / 3}]
    logs = api.call("GET", f"{ROOT}/{runs[0]}/logs?lines=2").text
    assert logs == f"{runs[0]} said this\n" * 1 + f"{runs[0]} said this"


def read_stream(api, path: str, last_event_id: str | None = None, meanwhile=None):
    """(id, kind) of each event, to the end of the stream."""

    async def read():
        transport = httpx2.ASGITransport(app=api.app)
        headers = {"authorization": "Bearer mulm_sk_" + "k" * 43, "accept": "text/event-stream"}
        headers |= {"last-event-id": last_event_id} if last_event_id else {}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            work = asyncio.create_task(client.get(path, headers=headers))
            if meanwhile:
                await asyncio.sleep(0.1)
                await asyncio.to_thread(meanwhile)
            return await work

    reply = asyncio.run(asyncio.wait_for(read(), 20))
    if reply.status_code != 200:
        return reply
    found = []
    for block in reply.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        assert json.loads(fields["data"])["id"] == fields["id"]
        found.append((int(fields["id"]), fields["event"]))
    return found


def test_a_stream_goes_on_behind_what_was_seen_without_gap_or_repeat(api, ledger, runs):
    path = f"{ROOT}/{runs[0]}/events"
    whole = read_stream(api, path)
    assert whole == [(1, "metric"), (2, "metric"), (3, "metric"), (4, "phase")]
    for seen in (1, 2, 3):
        assert read_stream(api, path, str(seen)) == whole[seen:]
    assert read_stream(api, path, "4").status_code == 204, "a browser asks no more"
    assert api.refused(
        "GET", path, 400, headers={"accept": "text/event-stream", "last-event-id": "x"}
    )["param"] == "Last-Event-ID"  # fmt: skip


def test_a_stream_tells_what_happens_and_ends_with_the_run(api, ledger):
    ledger.create_run("run_live", "train", {})
    ledger.append_events("run_live", [("metric", {"step": 1})])

    def go_on():
        for step in range(2, 40):
            ledger.append_events("run_live", [("metric", {"step": step})])
        ledger.set_phase("run_live", "succeeded")

    seen = read_stream(api, f"{ROOT}/run_live/events", meanwhile=go_on)
    assert [number for number, _ in seen] == list(range(1, 41))
    assert seen[-1][1] == "phase"


def test_a_run_is_started_once_and_under_the_id_that_it_has_everywhere(api, ledger, jobs, versions):
    reply = api.call("POST", ROOT, json={"kind": "train", "config": CONFIG})
    assert reply.status_code == 202, reply.text
    run = reply.json()
    assert reply.headers["location"] == f"{ROOT}/{run['id']}"
    [(module, run_id, path)] = jobs.submitted
    assert (module, run_id) == ("jobs.train", run["id"])
    assert SCHEMAS["train"].model_validate(json.loads(path.read_bytes())).dataset == "text@1"
    pinned = CONFIG | {"dataset": "text@1"}
    again = api.call("POST", ROOT, json={"kind": "train", "config": pinned})
    assert again.json()["id"] == run["id"], "a reference and its version are one run"
    ledger.create_run(run["id"], "train", json.loads(path.read_bytes()))
    ledger.set_phase(run["id"], "succeeded", result={"model": "made@1"})
    n_jobs = len(jobs.submitted)
    done = api.call("POST", ROOT, json={"kind": "train", "config": CONFIG})
    assert (done.status_code, done.json()["result"]) == (200, {"model": "made@1"})
    assert len(jobs.submitted) == n_jobs


def test_what_a_run_made_and_somebody_deleted_is_made_again(api, ledger, jobs, versions):
    asked = {"kind": "model_export", "config": {"model": "tiny@1", "to": "gguf"}}
    run = api.call("POST", ROOT, json=asked).json()
    [(_, _, path)] = jobs.submitted
    ledger.create_run(run["id"], "model_export", json.loads(path.read_bytes()))
    ledger.add_file("file_1", "tiny-1.gguf", "model_export", 1, "0" * 64)
    ledger.set_phase(run["id"], "succeeded", result={"model": "tiny@1", "file": "file_1"})
    assert api.call("POST", ROOT, json=asked).status_code == 200
    ledger.remove_file("file_1")
    jobs.submitted.clear()
    again = api.call("POST", ROOT, json=asked)
    assert (again.status_code, again.json()["id"]) == (202, run["id"])
    assert [run_id for _, run_id, _ in jobs.submitted] == [run["id"]]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "train", "config": CONFIG | {"stepps": 3}}, 400, "unknown_name"),
        ({"kind": "train", "config": CONFIG | {"dataset": "nothing"}}, 404, "not_found"),
        ({"kind": "train", "config": CONFIG | {"steps": -1}}, 400, "config_invalid"),
        ({"kind": "rm", "config": {}}, 400, "invalid_value"),
        ({"kind": "train"}, 400, "invalid_value"),
        (
            {
                "kind": "evaluate",
                "config": {"model": "tiny", "suites": ["blimp"], "data": {"blimp": "/etc/passwd"}},
            },
            400,
            "config_invalid",
        ),
    ],
)
def test_what_cannot_be_started_says_why_and_starts_nothing(
    api, jobs, versions, body, status, code
):
    assert api.refused("POST", ROOT, status, json=body)["code"] == code
    assert jobs.submitted == []


def test_pause_cancel_and_resume(api, ledger, jobs, versions):
    run_id = api.call("POST", ROOT, json={"kind": "train", "config": CONFIG}).json()["id"]
    assert api.refused("POST", f"{ROOT}/{run_id}/pause", 409)["code"] == "conflict", "only starting"
    config = json.loads(jobs.submitted[0][2].read_bytes())
    ledger.create_run(run_id, "train", config)
    ledger.set_phase(run_id, "running")
    jobs.all[run_id] = jobs.all[run_id].__class__(run_id, 1, "RUNNING", "", 0.0, "train")
    assert api.call("POST", f"{ROOT}/{run_id}/pause").json()["phase"] == "pausing"
    ledger.set_phase(run_id, "paused")
    jobs.stop_job(run_id)
    assert api.call("POST", f"{ROOT}/{run_id}/resume").status_code == 202
    assert jobs.submitted[-1][:2] == ("jobs.train", run_id)
    ledger.set_phase(run_id, "running")
    assert api.call("POST", f"{ROOT}/{run_id}/cancel").json()["phase"] == "cancelled"
    assert api.refused("POST", f"{ROOT}/{run_id}/resume", 409)["code"] == "conflict"
    assert api.refused("POST", f"{ROOT}/run_none/cancel", 404)["code"] == "not_found"


def test_a_run_under_way_keeps_the_settings_that_were_acknowledged(api, ledger, jobs, versions):
    run_id = api.call("POST", ROOT, json={"kind": "train", "config": CONFIG}).json()["id"]
    acknowledged = json.loads(jobs.submitted[0][2].read_bytes())
    for phase in ("queued", "running"):
        ledger.set_phase(run_id, phase)
        for key, value in (("workers", 3), ("device", "cpu"), ("export_to", ["wandb"])):
            other = {"kind": "train", "config": CONFIG | {key: value}}
            told = api.refused("POST", ROOT, 409, json=other)
            assert (told["code"], told["param"]) == ("conflict", f"config.{key}")
            assert told["detail"].startswith(f"{run_id} is this run")
            assert f"{key}: " in told["detail"]
    assert json.loads(jobs.submitted[0][2].read_bytes()) == acknowledged
    assert ledger.run(run_id).config == acknowledged
    assert len(jobs.submitted) == 1
    assert api.call("POST", ROOT, json={"kind": "train", "config": CONFIG}).status_code == 202


def test_a_run_that_failed_begins_again_with_other_settings(api, ledger, jobs, versions):
    run_id = api.call("POST", ROOT, json={"kind": "train", "config": CONFIG}).json()["id"]
    ledger.set_phase(run_id, "failed", error={"code": "job_failed", "message": "", "hint": ""})
    jobs.stop_job(run_id)
    other = {"kind": "train", "config": CONFIG | {"workers": 3}}
    assert api.call("POST", ROOT, json=other).json()["id"] == run_id
    assert json.loads(jobs.submitted[-1][2].read_bytes())["workers"] == 3
    # Before its job has begun that is what was acknowledged.
    assert api.call("POST", ROOT, json=other).json()["id"] == run_id
    before = {"kind": "train", "config": CONFIG}
    assert "workers: 3, not" in api.refused("POST", ROOT, 409, json=before)["detail"]
    assert json.loads(jobs.submitted[-1][2].read_bytes())["workers"] == 3


def test_a_training_that_cannot_tell_its_numbers_is_not_begun(api, jobs, versions, monkeypatch):
    monkeypatch.setattr("mulm.train.exporters.registry.has_package", lambda name: False)
    body = {"kind": "train", "config": CONFIG | {"export_to": ["wandb"]}}
    told = api.refused("POST", ROOT, 400, json=body)
    assert (told["code"], jobs.submitted) == ("config_invalid", [])
    assert "'wandb' is not installed" in told["detail"]
