"""`/api/v1/events`: one stream over everything, which goes on where a client stopped listening."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from mulm.errors import NotRunningError

ROOT = "/api/v1/events"


def listen(api, n_events: int, meanwhile=None, last_event_id: str = "", query: bytes = b""):
    """(id, kind, subject) of that many events, then the client leaves."""
    headers = [
        (b"authorization", b"Bearer mulm_sk_" + b"k" * 43),
        (b"accept", b"text/event-stream"),
        (b"host", b"127.0.0.1"),
    ]
    headers += [(b"last-event-id", last_event_id.encode())] if last_event_id else []
    scope = {
        "type": "http", "method": "GET", "path": ROOT, "raw_path": ROOT.encode(),
        "headers": headers, "query_string": query, "http_version": "1.1", "scheme": "http",
        "root_path": "",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    found, has_begun, is_over = [], asyncio.Event(), asyncio.Event()

    async def run():
        sent = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            for message in sent:
                return message
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            has_begun.set()
            lines = message.get("body", b"").decode().splitlines()
            found.extend(json.loads(line[6:]) for line in lines if line.startswith("data: {"))
            if len(found) >= n_events:
                is_over.set()

        work = asyncio.create_task(api.app(scope, receive, send))
        await has_begun.wait()
        if meanwhile:
            await asyncio.sleep(0.05)
            await asyncio.to_thread(meanwhile)
        await asyncio.wait({work})

    asyncio.run(asyncio.wait_for(run(), 10))
    return found


def test_what_happens_is_heard_and_nothing_twice_after_a_break(api, ledger):
    ledger.create_run("run_1", "train", {})

    def go_on():
        ledger.set_phase("run_1", "running")
        ledger.set_phase("run_1", "succeeded")

    heard = listen(api, 2, go_on)
    assert [(each["subject"], each["data"]["phase"]) for each in heard] == [
        ("run_1", "running"),
        ("run_1", "succeeded"),
    ], "without a number it begins with what happens from now on"
    whole = api.get(ROOT)["data"]
    again = listen(api, len(whole) - 1, last_event_id=whole[0]["id"])
    assert [each["id"] for each in again] == [each["id"] for each in whole[1:]]
    assert listen(api, 1, query=b"after=1")[0]["id"] == "2"


def test_pages_go_on_behind_what_was_seen(api, ledger):
    for number in range(5):
        ledger.create_run(f"run_{number}", "train", {})
    seen, after = [], 0
    while True:
        found = api.get(f"{ROOT}?limit=3&after={after}")
        seen += [each["seq"] for each in found["data"]]
        if not found["has_more"]:
            break
        after = found["last_id"]
    assert seen == sorted(set(seen))
    assert [each["subject"] for each in api.get(f"{ROOT}?limit=1000")["data"]][-1] == "run_4"


def test_what_is_no_number_is_refused(api):
    stream = {"accept": "text/event-stream", "last-event-id": "x"}
    assert api.refused("GET", ROOT, 400, headers=stream)["param"] == "Last-Event-ID"
    api.refused("GET", f"{ROOT}?after=-1", 400)
    api.refused("GET", f"{ROOT}?limit=0", 400)


def test_a_number_that_is_too_large_is_refused(api):
    for path in (ROOT, "/api/v1/runs/run_1/events"):
        api.refused("GET", f"{path}?after={2**63}", 400)
    headers = {"accept": "text/event-stream", "last-event-id": "9" * 20}
    api.refused("GET", ROOT, 400, headers=headers)


def test_a_number_that_is_not_there_yet_is_from_now_on(api, ledger):
    """As after a restore: the client remembers more than there is."""
    ledger.create_run("run_1", "train", {})
    beyond = str(ledger.last_happening() + 1000)

    for phase, how in (
        ("running", {"last_event_id": beyond}),
        ("succeeded", {"query": f"after={beyond}".encode()}),
    ):
        [heard] = listen(api, 1, partial(ledger.set_phase, "run_1", phase), **how)
        assert (heard["subject"], heard["data"]["phase"]) == ("run_1", phase)


def test_an_error_in_a_stream_is_a_problem(api, ledger, feed, monkeypatch):
    ledger.create_run("run_1", "train", {})
    ledger.create_run("run_2", "train", {})
    monkeypatch.setattr(feed, "_facts", Away(ledger))
    [first, error] = listen(api, 2, query=b"after=1")[:2]
    assert first["id"] == "2"
    assert (error["status"], error["code"]) == (503, "not_running")
    assert error["request_id"].startswith("req_")


class Away:
    """A ledger that goes after its first answer."""

    def __init__(self, ledger):
        self._ledger, self._n_asked = ledger, 0

    def happenings(self, after, limit):
        self._n_asked += 1
        if self._n_asked > 1:
            raise NotRunningError("the ledger is gone")
        return self._ledger.happenings(after, 1)

    def last_happening(self):
        return 10**6
