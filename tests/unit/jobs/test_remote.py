"""The client of the control API: what it says again and what not, and what it makes of answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from jobs.remote import Remote, address_of
from jobs.remote_runs import RemoteRuns
from jobs.remote_versions import RemoteVersions
from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    MulmError,
    NotFoundError,
    NotRunningError,
    UnknownNameError,
    UnreachableError,
)
from mulm.records import Answered
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer
from serve_app.keys import NEW_FIRST


@pytest.mark.parametrize("path", ["", "/", "/v1", "/api/v1/", "/api", "/api/"])
def test_an_address_is_the_host_alone(path: str) -> None:
    assert address_of(f"http://h:8000{path}") == "http://h:8000"


@pytest.mark.parametrize(
    "url", ["h:8000", "ftp://h", "http://", "http://h:x", "", "http://me:secret@h", "http://h?x=1"]
)
def test_other_texts_are_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        address_of(url)


class Scripted(BaseHTTPRequestHandler):
    """Answers what it is told to, in order; None breaks the connection."""

    script: ClassVar[list[tuple[int, Any, dict[str, str]] | None]] = []
    seen: ClassVar[list[tuple[str, str]]] = []

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path))
        answer = self.script.pop(0)
        if answer is None:
            self.connection.close()
            return
        status, body, headers = answer
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_GET


@pytest.fixture
def scripted() -> Iterator[tuple[Remote, list[float]]]:
    Scripted.script.clear()
    Scripted.seen.clear()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    slept: list[float] = []
    with Remote(f"http://127.0.0.1:{http.server_address[1]}", "key", sleep=slept.append) as remote:
        yield remote, slept
    http.shutdown()
    http.server_close()
    thread.join()


OK = (200, {"done": True}, {})
BUSY = (503, {"code": "not_running", "detail": "not yet", "hint": "wait"}, {"Retry-After": "2"})


def test_what_is_harmless_is_asked_again(scripted: Any) -> None:
    remote, slept = scripted
    Scripted.script += [None, BUSY, OK]
    assert remote.get("x") == {"done": True}
    assert slept == [0.3, 2.0]
    assert Scripted.seen == [("GET", "/api/v1/x")] * 3
    Scripted.script += [None, OK]
    assert remote.post("x", {}, is_repeatable=True).json() == {"done": True}
    Scripted.script += [None, OK]
    assert remote.put("x", {}) == {"done": True}


def test_what_may_not_be_done_twice_is_not_sent_again(scripted: Any) -> None:
    remote, slept = scripted
    Scripted.script += [None, OK]
    with pytest.raises(UnreachableError):
        remote.post("keys", {"name": "a"})
    assert len(Scripted.seen) == 1
    Scripted.script[:] = [BUSY, OK]
    with pytest.raises(MulmError, match="not yet"):
        remote.post("keys", {"name": "a"})
    assert slept == []


def test_what_is_still_worked_on_is_asked_for_again(scripted: Any) -> None:
    remote, slept = scripted
    working = (409, {"code": "idempotency_in_progress", "detail": "wait"}, {})
    Scripted.script += [working, OK]
    assert remote.post("x", {}, is_repeatable=True).json() == {"done": True}
    assert slept == [0.3]
    Scripted.script[:] = [(409, {"code": "conflict", "detail": "taken"}, {}), OK]
    with pytest.raises(ConflictError, match="taken"):
        remote.post("x", {}, is_repeatable=True)


def test_trying_has_an_end(scripted: Any) -> None:
    remote, slept = scripted
    Scripted.script += [BUSY] * 4
    with pytest.raises(MulmError, match="not yet") as caught:
        remote.get("x")
    assert caught.value.code == "not_running"
    assert len(Scripted.seen) == 4
    assert slept == [2.0, 2.0, 3.0]
    Scripted.script[:] = [(503, {}, {"Retry-After": "99999"}), OK]
    remote.get("x")
    assert slept[-1] == 10.0


def test_nobody_there_is_told_with_the_address() -> None:
    slept: list[float] = []
    with Remote("http://127.0.0.1:9", "key", sleep=slept.append) as remote:
        with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9") as caught:
            remote.post("keys", {})
        assert "MULM_URL" in caught.value.hint
        assert len(slept) == 3  # never received, so it may be sent again


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"code": "unknown_name", "detail": "no key 'x'", "hint": "h"}, UnknownNameError),
        (401, {"code": "invalid_api_key", "detail": "no"}, AuthError),
        (403, {"code": "forbidden", "detail": "no"}, AuthError),
        (404, {"error": {"code": "model_not_found", "message": "no"}}, NotFoundError),
        (412, {"code": "precondition_failed", "detail": "no"}, ConflictError),
        (500, {"code": "internal", "detail": "no"}, MulmError),
        (418, "teapot", MulmError),
        (502, {}, UnreachableError),
        (503, {"code": "not_running", "detail": "no"}, NotRunningError),
        (413, {"error": {"code": "request_too_large", "message": "no"}}, ConfigError),
    ],
)
def test_problems_are_raised_as_what_they_are(
    scripted: Any, status: int, body: Any, kind: type[MulmError]
) -> None:
    remote, _ = scripted
    Scripted.script += [(status, body, {})] * 4
    with pytest.raises(kind) as caught:
        remote.get("x")
    assert type(caught.value) is kind


def test_plain_words_to_a_server_that_speaks_tls_have_a_hint() -> None:
    def hang_up(listening: socket.socket) -> None:
        for _ in range(4):
            with listening.accept()[0] as connection:
                connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=hang_up, args=[listening])
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        remote = Remote(url, "key", sleep=lambda _s: None)
        with remote, pytest.raises(UnreachableError) as caught:
            remote.get("x")
        thread.join()
    assert f"https{url.removeprefix('http')}" in caught.value.hint


def test_an_expired_first_key_has_its_own_way_out(scripted: Any) -> None:
    remote, _ = scripted
    for hint, told in ((NEW_FIRST, NEW_FIRST), ("ask for another one", "MULM_API_KEY")):
        Scripted.script.append((401, {"code": "unauthorized", "detail": "no", "hint": hint}, {}))
        with pytest.raises(AuthError) as caught:
            remote.get("x")
        assert told in caught.value.hint


def test_a_list_is_read_to_its_end(server: Any) -> None:
    for number in range(230):
        server.facts.create_run(f"run_{number:012}", "train", {"name": f"n{number}"})
        server.facts.set_phase(f"run_{number:012}", "failed")
    with Remote(server.url, server.key) as remote:
        runs = RemoteRuns(remote)
        found = [one.run.id for one in runs.all("train")]
        assert runs.all("evaluate") == []
    assert len(found) == len(set(found)) == 230
    assert found[0] == f"run_{229:012}"


def page_of(*ids: str, has_more: bool = True) -> tuple[int, Any, dict[str, str]]:
    return 200, {"data": [{"id": each} for each in ids], "has_more": has_more}, {}


GONE = (404, {"code": "not_found", "detail": "no such item"}, {})


def test_a_list_of_which_the_cursor_is_removed_is_read_anew_once(scripted: Any) -> None:
    remote, _ = scripted
    Scripted.script[:] = [page_of("d", "c"), GONE, page_of("e", "d"), page_of("b", has_more=False)]
    assert [each["id"] for each in remote.items("keys")] == ["d", "c", "e", "b"]
    assert [path.partition("?")[2] for _, path in Scripted.seen] == [
        "limit=100", "limit=100&after=c", "limit=100", "limit=100&after=d",
    ]  # fmt: skip
    Scripted.script[:] = [page_of("d"), GONE, page_of("d"), GONE]
    with pytest.raises(NotFoundError):
        list(remote.items("keys"))
    Scripted.script[:] = [GONE]
    with pytest.raises(NotFoundError):
        list(remote.items("nothing"))


def test_feedback_that_is_removed_between_two_pages_breaks_no_list(server: Any) -> None:
    for number in range(150):
        server.facts.give_feedback(
            f"fb_{number}", "key_1", Answered("tiny", (), f"It is {number}."), "up"
        )
    with Remote(server.url, server.key) as remote:
        told = []
        for each in remote.items("feedback"):
            told.append(each["id"])
            if len(told) == 100:
                server.facts.remove_feedback(each["id"])
    assert told == [f"fb_{number}" for number in reversed(range(150))]


def test_a_wrong_key_is_told_how_to_mend(server: Any) -> None:
    with Remote(server.url, "mulm_sk_" + "x" * 43) as remote:
        with pytest.raises(AuthError) as caught:
            remote.get("runs")
        assert "--key" in caught.value.hint
        assert "x" * 43 not in str(caught.value)


def test_versions_and_aliases(server: Any) -> None:
    tokenizer = tiny_tokenizer()
    dataset = tiny_dataset(
        server.store, vocab_size=320, tokenizer_fingerprint=tokenizer.fingerprint
    )
    model = tiny_stored_model(server.store, tokenizer)
    server.facts.publish("dataset", "text", dataset.id)
    server.facts.publish("model", "tiny", model.id)
    with Remote(server.url, server.key) as remote:
        versions = RemoteVersions(remote)
        assert [version.ref for version in versions.all("model")] == ["tiny@1"]
        assert versions.all("dataset", "nobody") == []
        told = versions.show("model", "tiny")
        assert (told["model"], told["model_id"]) == ("tiny@1", model.id)
        assert told["files"]
        first = versions.point("tiny", "live")
        assert first == {
            "alias": "tiny@live", "model": "tiny@1", "model_id": model.id, "before": None,
        }  # fmt: skip
        assert versions.point("tiny@1", "live")["before"] == "tiny@1"
        assert server.facts.aliases("model", "tiny") == {"live": 1}
        with pytest.raises(NotFoundError):
            versions.point("nobody", "live")
        with pytest.raises(ConfigError):
            versions.point("tiny", "7")
