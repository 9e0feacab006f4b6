"""From a text to a model that is rolled back, over HTTP alone, with a URL and a key."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.keys import read_first_key

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "corpora/books/lewis-carroll__alice-s-adventures-in-wonderland.txt.gz"
N_BYTES = 120_000
EVENT_STREAM = {"accept": "text/event-stream"}


class Api:
    """What anybody has who has a URL and a key."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=120.0, trust_env=False)

    def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        reply = self.http.request(method, path, json=body)
        assert reply.status_code == status, reply.text
        return reply.json() if reply.content else None

    def run(self, path: str, body: Any) -> dict[str, Any]:
        """Start work and watch it to its end, through a connection that breaks once."""
        begun = self.http.post(path, json=body)
        assert begun.status_code == 202, begun.text
        run = begun.headers["location"]
        seen = list(self.events(run, 0, at_most=2))
        seen += self.events(run, seen[-1]["seq"])
        assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
        ended: dict[str, Any] = self("GET", run)
        assert ended["phase"] == "succeeded", ended["error"]
        return ended

    def upload(self, text: str, purpose: str) -> str:
        form = {"file": ("lines.jsonl", text.encode())}
        reply = self.http.post("/v1/files", files=form, data={"purpose": purpose})
        assert reply.is_success, reply.text
        file_id: str = reply.json()["id"]
        return file_id

    def job(self, path: str, body: Any, end: str) -> dict[str, Any]:
        """Begin a job of OpenAI's API, and wait for its end as for that of any run."""
        run = self("POST", path, body)["id"]
        told = list(self.events(f"/api/v1/runs/{run}", 0))
        ended: dict[str, Any] = self("GET", f"{path}/{run}")
        assert ended["status"] == end, (ended, told[-5:])
        return ended

    def events(self, run: str, after: int, at_most: int = 10**9) -> Iterator[dict[str, Any]]:
        headers = EVENT_STREAM | {"last-event-id": str(after)}
        with self.http.stream("GET", f"{run}/events", headers=headers) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))
                    at_most -= 1
                if not at_most:
                    return

    def until(self, name: str, is_true: Any, timeout_s: float = 90.0) -> dict[str, Any]:
        """A deployment, as soon as something is true of it."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found: dict[str, Any] = self("GET", f"/api/v1/deployments/{name}")
            assert found["status"] != "failed", found["message"]
            if is_true(found):
                return found
            assert time.monotonic() < deadline_s, found
            time.sleep(0.1)

    def who_answers(self) -> str:
        """The weights behind one answer."""
        body = {
            "model": "assistant",
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 4,
        }
        mark: str = self("POST", "/v1/chat/completions", body)["system_fingerprint"]
        return mark


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[Api]:
    made = Api(cluster.info.api_url, read_first_key(cluster.home))
    yield made
    made.http.close()


def is_running(found: dict[str, Any]) -> bool:
    return bool(found["status"] == "running")


def test_from_a_text_to_a_model_that_is_rolled_back(api):
    text = gzip.decompress(BOOK.read_bytes())[:N_BYTES].decode(errors="ignore")
    pages = "".join(json.dumps({"text": part}) + "\n" for part in text.split("\n\n"))
    source = {"file": api.upload(pages, "user_data"), "licence": "public domain"}
    recipe = {"name": "pages", "sources": [source], "tokenizer": {"vocab_size": 512}}
    built = api.run("/api/v1/datasets", recipe)
    dataset = built["result"]["dataset"]
    assert api("GET", f"/api/v1/datasets/{dataset}")["licences"] == ["public domain"]
    assert api("GET", f"/api/v1/datasets/{dataset}/preview?n=1")

    models = []
    for seed in (0, 1):
        config = {
            "name": "pupil", "dataset": dataset, "preset": "demo", "steps": 4, "seed": seed,
            "batch_tokens": 256, "seq_len": 64, "workers": 1,
        }  # fmt: skip
        told = api("POST", "/api/v1/runs/estimate", {"config": config})
        assert (told["steps"], told["parameters"] > 0) == (4, True)
        trained = api.run("/api/v1/runs", {"kind": "train", "config": config})
        models.append(trained["result"]["model"])
        numbers = api("GET", f"/api/v1/runs/{trained['id']}/metrics")
        assert numbers
    assert models == ["pupil@1", "pupil@2"]

    given = api.run(
        "/api/v1/runs", {"kind": "model_export", "config": {"model": "pupil@1", "to": "gguf"}}
    )
    file = api.http.get(f"/v1/files/{given['result']['file']}/content")
    assert (file.content[:4], len(file.content)) == (b"GGUF", given["result"]["size_bytes"])

    judged = api.run("/api/v1/runs", {"kind": "evaluate", "config": {"model": "pupil@1"}})
    assert judged["result"]["bits_per_byte"] > 0

    api("PUT", "/api/v1/models/pupil/aliases/live", {"version": 1})
    assert [node["is_head"] for node in api("GET", "/api/v1/cluster/nodes")["data"]] == [True]
    api("PUT", "/api/v1/deployments/assistant", {"model": "pupil@live"}, 202)
    api.until("assistant", is_running)
    first = api.who_answers()

    canary = {"model": "pupil@2", "weight": 50}
    api("PUT", "/api/v1/deployments/assistant/canary", canary, 202)
    api.until("assistant", is_running)
    assert len({api.who_answers() for _ in range(20)}) == 2
    api("POST", "/api/v1/deployments/assistant/promote", None, 202)
    found = api.until("assistant", is_running)
    assert found["model"] == "pupil@2"
    assert {api.who_answers() for _ in range(5)} == {api.who_answers()} != {first}

    api("POST", "/api/v1/deployments/assistant/rollback", {}, 202)
    api.until("assistant", is_running)
    assert {api.who_answers() for _ in range(5)} == {first}
    reasons = api("GET", "/api/v1/deployments/assistant/history")["data"]
    assert [each["reason"].split()[0] for each in reasons] == ["back", "canary", "canary", "serve"]

    assert tuned(api, "pupil@1") == "pupil-sums@1"
    assert answered(api, 12) == {f"ask-{n}": 200 for n in range(12)}
    api("DELETE", "/api/v1/deployments/assistant", None, 204)


def tuned(api: Api, model: str) -> str:
    """The model that a fine-tuning job makes of conversations."""
    chats = [
        [{"role": "user", "content": f"{n} and 1?"}, {"role": "assistant", "content": str(n + 1)}]
        for n in range(40)
    ]
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    job = api.job(
        "/v1/fine_tuning/jobs",
        {"model": model, "training_file": api.upload(lines, "fine-tune"), "suffix": "sums",
         "hyperparameters": {"n_epochs": 1, "batch_size": 4}},
        "succeeded",
    )  # fmt: skip
    assert job["trained_tokens"] > 0
    assert api("GET", f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")["data"]
    made: str = job["fine_tuned_model"]
    return made


def answered(api: Api, n: int) -> dict[str, int]:
    """The statuses of so many requests of a batch, by their ids."""
    url = "/v1/chat/completions"
    body = {
        "model": "assistant", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello?"}]
    }  # fmt: skip
    lines = "".join(
        json.dumps({"custom_id": f"ask-{k}", "method": "POST", "url": url, "body": body}) + "\n"
        for k in range(n)
    )
    batch = api.job(
        "/v1/batches",
        {"input_file_id": api.upload(lines, "batch"), "endpoint": url, "completion_window": "24h"},
        "completed",
    )
    assert batch["request_counts"] == {"total": n, "completed": n, "failed": 0}
    assert batch["error_file_id"] is None
    content = api.http.get(f"/v1/files/{batch['output_file_id']}/content").text
    found = [json.loads(line) for line in content.splitlines()]
    return {line["custom_id"]: line["response"]["status_code"] for line in found}
