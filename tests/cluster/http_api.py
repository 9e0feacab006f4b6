"""What anybody does who has a URL and a key, in a few words for tests: a client of the HTTP API."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

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
        """Start work and watch it to its end, through a connection that breaks once.

        Work that was done before is answered as it ended.
        """
        begun = self.http.post(path, json=body)
        assert begun.status_code in (200, 202), begun.text
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

    def until(self, name: str, is_true: Any, timeout_s: float = 300.0) -> dict[str, Any]:
        """A deployment, as soon as something is true of it."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found: dict[str, Any] = self("GET", f"/api/v1/deployments/{name}")
            assert found["status"] != "failed", found["message"]
            if is_true(found):
                return found
            assert time.monotonic() < deadline_s, found
            time.sleep(0.1)

    def who_answers(self, name: str) -> str:
        """The weights behind one answer."""
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 4,
        }
        mark: str = self("POST", "/v1/chat/completions", body)["system_fingerprint"]
        return mark


def is_running(found: dict[str, Any]) -> bool:
    """Whether a deployment answers as it is wanted."""
    return bool(found["status"] == "running")


def book_recipe(api: Api) -> dict[str, Any]:
    """A recipe of an uploaded book; the same bytes again are the same build."""
    text = gzip.decompress(BOOK.read_bytes())[:N_BYTES].decode(errors="ignore")
    pages = "".join(json.dumps({"text": part}) + "\n" for part in text.split("\n\n"))
    source = {"file": api.upload(pages, "user_data"), "licence": "public domain"}
    return {"name": "pages", "sources": [source], "tokenizer": {"vocab_size": 512}}


def pupil_config(dataset: str, seed: int) -> dict[str, Any]:
    """A training run of a few steps."""
    return {
        "name": "pupil", "dataset": dataset, "preset": "demo", "steps": 4, "seed": seed,
        "batch_tokens": 256, "seq_len": 64, "workers": 1,
    }  # fmt: skip


def sums(n: int) -> str:
    """Conversations to learn from, as lines of JSON."""
    chats = [
        [{"role": "user", "content": f"{k} and 1?"}, {"role": "assistant", "content": str(k + 1)}]
        for k in range(n)
    ]
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)


def questions(model: str, n: int) -> str:
    """Requests of a batch, as lines of JSON."""
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello?"}]}
    url = "/v1/chat/completions"
    return "".join(
        json.dumps({"custom_id": f"ask-{k}", "method": "POST", "url": url, "body": body}) + "\n"
        for k in range(n)
    )
