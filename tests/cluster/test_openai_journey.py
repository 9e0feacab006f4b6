"""A model is taught, asked and put to a batch by OpenAI's own client alone.

What that client has no word for, a first model and its deployment, is done over HTTP before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from serve_app.keys import read_first_key
from tests.cluster.http_api import Api, book_recipe, is_running, pupil_config, questions, sums

pytestmark = pytest.mark.cluster

PATIENCE_S = 300.0
N_QUESTIONS = 5
MESSAGES: Any = [{"role": "user", "content": "3 and 1?"}]


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[Api]:
    made = Api(cluster.info.api_url, read_first_key(cluster.home))
    yield made
    made.http.close()


@pytest.fixture(scope="module")
def client(cluster) -> Iterator[openai.OpenAI]:
    base_url, key = f"{cluster.info.api_url}/v1", read_first_key(cluster.home)
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=http) as made:
        yield made


@pytest.fixture(scope="module")
def teacher(api) -> str:
    """A model to begin with."""
    built = api.run("/api/v1/datasets", book_recipe(api))
    config = pupil_config(built["result"]["dataset"], seed=0)
    trained: str = api.run("/api/v1/runs", {"kind": "train", "config": config})["result"]["model"]
    return trained


@pytest.fixture
def tutor(api) -> Iterator[Callable[[str], str]]:
    """Has a model served, which the client has no word for."""

    def serve(model: str) -> str:
        api("PUT", "/api/v1/deployments/tutor", {"model": model}, 202)
        api.until("tutor", is_running)
        return "tutor"

    yield serve
    api("DELETE", "/api/v1/deployments/tutor", None, 204)


def until(look: Callable[[], Any], ends: set[str]) -> Any:
    """What is looked at, once it has ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := look()).status not in ends:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.2)
    return found


def test_openais_client_teaches_asks_and_batches(client, teacher, tutor):
    tuned = taught(client, teacher)
    name = tutor(tuned)
    assert name in [model.id for model in client.models.list()]
    assert client.models.retrieve(name).id == name
    asked(client, name)
    batched(client, name)


def taught(client: openai.OpenAI, model: str) -> str:
    """Upload, fine-tune, watch."""
    lines = sums(24).encode()
    files = client.files
    file = files.create(file=("sums.jsonl", lines), purpose="fine-tune")
    assert files.retrieve(file.id).bytes == len(lines)
    assert files.content(file.id).content == lines
    assert file.id in [each.id for each in files.list(purpose="fine-tune", limit=1)]

    jobs = client.fine_tuning.jobs
    method: Any = {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}},
    }
    job = jobs.create(model=model, training_file=file.id, suffix="tutored", method=method)
    assert job.status in ("validating_files", "queued", "running")
    assert job.id in [each.id for each in jobs.list(limit=1)]
    ended = until(lambda: jobs.retrieve(job.id), {"succeeded", "failed", "cancelled"})
    assert (ended.status, ended.error and ended.error.message) == ("succeeded", None)
    assert ended.trained_tokens
    assert ended.trained_tokens > 0

    whole = jobs.list_events(job.id, limit=100).data
    paged = [event.id for event in jobs.list_events(job.id, limit=2)]
    assert paged == [event.id for event in whole], "page by page is the same as at once"
    assert len(set(paged)) == len(paged) > 2
    assert any(event.type == "metrics" for event in whole)
    checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
    assert checkpoints
    assert {each.fine_tuning_job_id for each in checkpoints} == {job.id}
    assert ended.fine_tuned_model
    return ended.fine_tuned_model


def asked(client: openai.OpenAI, model: str) -> None:
    """An answer at once is the answer in pieces."""
    options: Any = {"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options)
    text = ""
    for chunk in client.chat.completions.create(**options, stream=True):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage
    assert 0 < whole.usage.completion_tokens <= 8
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'") as refused:
        client.chat.completions.create(**(options | {"model": "nobody"}))
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def batched(client: openai.OpenAI, model: str) -> None:
    """Many questions in a file."""
    lines = questions(model, N_QUESTIONS).encode()
    file = client.files.create(file=("ask.jsonl", lines), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert made.id in [each.id for each in client.batches.list(limit=1)]
    ends = {"completed", "failed", "expired", "cancelled"}
    batch = until(lambda: client.batches.retrieve(made.id), ends)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (N_QUESTIONS, 0)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
    assert {each["custom_id"] for each in answers} == {f"ask-{n}" for n in range(N_QUESTIONS)}
    assert {each["response"]["status_code"] for each in answers} == {200}
    client.files.delete(file.id)
    assert file.id not in [each.id for each in client.files.list(limit=1)]
