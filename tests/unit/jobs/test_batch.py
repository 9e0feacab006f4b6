"""A batch as a run: every request is answered once, whatever happens meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from jobs.batch import answer
from jobs.entry import JobContext
from mulm.batch import WINDOW_S, BatchConfig
from mulm.config import parse_config
from mulm.errors import DataError, NotRunningError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import BlobEntry
from mulm.runs.identity import batch_identity, pinned, run_id_of
from mulm.store import Store

RUN = "run_" + "b" * 12
URL = "/v1/completions"
Reply = httpx.Response | BaseException


class Served:
    """A server that answers each prompt as it is told to."""

    def __init__(self, reply: Callable[[str, int], Reply]) -> None:
        self._reply, self._lock = reply, threading.Lock()
        self.asked: list[str] = []

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        assert path == URL
        with self._lock:
            self.asked.append(body["prompt"])
            n_before = self.asked.count(body["prompt"]) - 1
        reply = self._reply(body["prompt"], n_before)
        if isinstance(reply, BaseException):
            raise reply
        return reply


def good(prompt: str, _n_before: int = 0) -> httpx.Response:
    return httpx.Response(200, json={"says": prompt}, headers={"x-request-id": "req_1"})


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    with Ledger(home.ledger, clock=lambda: 1000.0) as ledger:
        ledger.create_run(RUN, "batch", {})
        yield JobContext(RUN, home, Store(home.store), ledger)


def config_of(context: JobContext, *prompts: str, content: bytes | None = None) -> BatchConfig:
    lines = (
        {"custom_id": f"id-{prompt}", "method": "POST", "url": URL, "body": {"prompt": prompt}}
        for prompt in prompts
    )
    text = content if content is not None else "\n".join(map(json.dumps, lines)).encode()
    blob = context.store.put("x", text)
    for known in context.facts.files("batch"):
        context.facts.remove_file(known.id)
    context.facts.add_file("file_in", "in.jsonl", "batch", blob.size_bytes, blob.sha256)
    values = {"nonce": "n", "endpoint": URL, "input_file": "file_in"}
    return pinned(parse_config(BatchConfig, values), context.facts)


def work(context: JobContext, config: BatchConfig, client: Served, **options: Any) -> Any:
    options = {"sleep": lambda _: None, "now_s": lambda: 1000.0} | options
    return answer(context, config, client, **options)


def lines_of(context: JobContext, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    file = context.facts.file(file_id)
    assert file.purpose == "batch_output"
    blob = BlobEntry(name="x", sha256=file.sha256, size_bytes=file.size_bytes)
    lines = [json.loads(line) for line in context.store.read(blob).decode().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_every_request_is_answered_once(context):
    prompts = [str(n) for n in range(50)]
    served = Served(good)
    result = work(context, config_of(context, *prompts), served)
    found = lines_of(context, result["output_file"])
    assert {key: line["response"]["body"] for key, line in found.items()} == {
        f"id-{prompt}": {"says": prompt} for prompt in prompts
    }
    assert found["id-7"]["response"]["status_code"] == 200
    assert found["id-7"]["response"]["request_id"] == "req_1"
    assert found["id-7"]["error"] is None
    assert (result["total"], result["completed"], result["failed"]) == (50, 50, 0)
    assert (result["error_file"], result["expired"]) == (None, False)
    assert sorted(served.asked) == sorted(prompts)


def test_what_fails_stops_none_of_the_others(context):
    def reply(prompt: str, _n: int) -> Reply:
        if prompt == "bad":
            return httpx.Response(400, json={"error": {"code": "invalid_value"}})
        if prompt == "html":
            return httpx.Response(200, text="<html>")
        if prompt == "odd":
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no text")
        return good(prompt)

    result = work(context, config_of(context, "a", "bad", "html", "odd", "z"), Served(reply))
    assert set(lines_of(context, result["output_file"])) == {"id-a", "id-z"}
    wrong = lines_of(context, result["error_file"])
    assert wrong["id-bad"]["response"]["status_code"] == 400
    assert wrong["id-html"]["error"]["code"] == wrong["id-odd"]["error"]["code"] == "data_invalid"
    assert (result["completed"], result["failed"]) == (2, 3)
    progress = context.facts.last_event(RUN, "progress")
    assert (progress.data["done"], progress.data["failed"]) == (5, 3)


def test_a_busy_server_and_one_that_is_away_are_asked_again(context):
    waits: list[float] = []

    def reply(prompt: str, n_before: int) -> Reply:
        if n_before < 3:
            busy = httpx.Response(429 if n_before else 503, json={}, headers={"retry-after": "7"})
            return NotRunningError("away") if n_before == 2 else busy
        return good(prompt)

    result = work(context, config_of(context, "a"), Served(reply), sleep=waits.append)
    assert result["completed"] == 1
    assert waits == [7.0, 7.0, 4.0]
    away = Served(lambda _prompt, _n: NotRunningError("away"))
    result = work(context, config_of(context, "a", "b"), away)
    assert lines_of(context, result["error_file"])["id-b"]["error"]["code"] == "not_running"


def test_stopped_it_goes_on_and_asks_nothing_twice(context):
    config = config_of(context, *map(str, range(20)))

    def stopping(prompt: str, _n: int) -> Reply:
        return KeyboardInterrupt() if prompt == "11" else good(prompt)

    first = Served(stopping)
    with pytest.raises(KeyboardInterrupt):
        work(context, config, first, concurrency=1)
    files = context.facts.last_event(RUN, "files").data
    assert len(lines_of(context, files["output"])) == 11
    folder = context.home.run(RUN)
    with (folder / "output.jsonl").open("ab") as file:
        file.write(b'{"custom_id": "id-11", "cut')  # as a power cut leaves it
    second = Served(good)
    result = work(context, config, second)
    assert len(lines_of(context, result["output_file"])) == 20
    assert sorted(second.asked, key=int) == [str(n) for n in range(11, 20)]
    assert result["output_file"] == files["output"]
    assert len(context.facts.files("batch_output")) == 1


def test_what_is_left_after_the_window_has_expired(context):
    now_s = [1000.0]

    def reply(prompt: str, _n: int) -> Reply:
        if prompt == "b":
            now_s[0] += WINDOW_S
        return good(prompt)

    served = Served(reply)
    result = work(
        context, config_of(context, "a", "b", "c", "d"), served,
        concurrency=1, now_s=lambda: now_s[0],
    )  # fmt: skip
    assert served.asked == ["a", "b"]
    assert result["expired"] is True
    wrong = lines_of(context, result["error_file"])
    assert {line["error"]["code"] for line in wrong.values()} == {"batch_expired"}
    assert set(wrong) == {"id-c", "id-d"}


def test_a_file_that_is_no_batch_asks_nothing(context):
    served = Served(good)
    lines = [json.dumps({"custom_id": f"{n}", "method": "GET"}) for n in range(300)]
    content = "\n".join(lines).encode()
    with pytest.raises(DataError, match="line 1: method"):
        work(context, config_of(context, content=content), served)
    errors = context.facts.last_event(RUN, "invalid").data["errors"]
    assert len(errors) == 100
    assert errors[4] == {
        "line": 5, "code": "invalid_request", "message": "method: is POST", "param": "method"
    }  # fmt: skip
    assert served.asked == []
    assert context.facts.files("batch_output") == []


def test_a_file_of_lines_for_another_endpoint_is_not_called_empty(context):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}
    for content, codes in (
        (json.dumps(line).encode(), ["mismatched_endpoint"]), (b"\n", ["empty_file"]),
    ):  # fmt: skip
        with pytest.raises(DataError):
            work(context, config_of(context, content=content), Served(good))
        told = context.facts.last_event(RUN, "invalid").data["errors"]
        assert [each["code"] for each in told] == codes


def test_another_batch_of_the_same_file_is_another_run(context):
    config = config_of(context, "a")

    def run_id(**changes: Any) -> str:
        changed = config.model_copy(update=changes)
        return run_id_of("batch", changed, batch_identity(changed, context.facts, context.store))

    assert run_id() == run_id(metadata={"a": "b"})
    assert run_id() != run_id(nonce="other")
