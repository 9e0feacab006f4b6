"""From a text to a model that is rolled back, over HTTP alone, with a URL and a key."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from serve_app.keys import read_first_key
from tests.cluster.http_api import Api, book_recipe, is_running, pupil_config, questions, sums

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[Api]:
    made = Api(cluster.info.api_url, read_first_key(cluster.home))
    yield made
    made.http.close()


def test_from_a_text_to_a_model_that_is_rolled_back(api):
    built = api.run("/api/v1/datasets", book_recipe(api))
    dataset = built["result"]["dataset"]
    assert api("GET", f"/api/v1/datasets/{dataset}")["licences"] == ["public domain"]
    assert api("GET", f"/api/v1/datasets/{dataset}/preview?n=1")

    models = []
    for seed in (0, 1):
        config = pupil_config(dataset, seed)
        told = api("POST", "/api/v1/runs/estimate", {"config": config})
        assert (told["steps"], told["parameters"] > 0) == (4, True)
        assert told["sync"]["strategy"] == "single"
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
    nodes = api("GET", "/api/v1/cluster/nodes")["data"]
    assert [node["is_head"] for node in nodes if node["is_alive"]] == [True]
    api("PUT", "/api/v1/deployments/assistant", {"model": "pupil@live"}, 202)
    api.until("assistant", is_running)
    first = api.who_answers("assistant")

    canary = {"model": "pupil@2", "weight": 50}
    api("PUT", "/api/v1/deployments/assistant/canary", canary, 202)
    api.until("assistant", is_running)
    assert len({api.who_answers("assistant") for _ in range(20)}) == 2
    api("POST", "/api/v1/deployments/assistant/promote", None, 202)
    found = api.until("assistant", is_running)
    assert found["model"] == "pupil@2"
    assert (
        {api.who_answers("assistant") for _ in range(5)}
        == {api.who_answers("assistant")}
        != {first}
    )

    api("POST", "/api/v1/deployments/assistant/rollback", {}, 202)
    api.until("assistant", is_running)
    assert {api.who_answers("assistant") for _ in range(5)} == {first}
    reasons = api("GET", "/api/v1/deployments/assistant/history")["data"]
    assert [each["reason"].split()[0] for each in reasons] == ["back", "canary", "canary", "serve"]

    assert tuned(api, "pupil@1") == "pupil-sums@1"
    assert answered(api, 12) == {f"ask-{n}": 200 for n in range(12)}
    api("DELETE", "/api/v1/deployments/assistant", None, 204)


def tuned(api: Api, model: str) -> str:
    """The model that a fine-tuning job makes of conversations."""
    job = api.job(
        "/v1/fine_tuning/jobs",
        {"model": model, "training_file": api.upload(sums(40), "fine-tune"), "suffix": "sums",
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
    batch = api.job(
        "/v1/batches",
        {
            "input_file_id": api.upload(questions("assistant", n), "batch"),
            "endpoint": url,
            "completion_window": "24h",
        },
        "completed",
    )
    assert batch["request_counts"] == {"total": n, "completed": n, "failed": 0}
    assert batch["error_file_id"] is None
    content = api.http.get(f"/v1/files/{batch['output_file_id']}/content").text
    found = [json.loads(line) for line in content.splitlines()]
    return {line["custom_id"]: line["response"]["status_code"] for line in found}
