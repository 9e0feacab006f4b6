from __future__ import annotations

import io
import json
import threading

import httpx
import pytest

from jobs.generate import Order, ask, done_in, generate, one_order, opened, read_orders, text_of
from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    MulmError,
    NotFoundError,
    OverloadedError,
)

DEFAULTS = {"model": "demo"}


class Client:
    """Answers with the prompt in capitals, after as many refusals as it is told to."""

    def __init__(self, n_busy: int = 0, status: int = 503) -> None:
        self.bodies: list = []
        self.n_busy, self.status = n_busy, status
        self.n_at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def post(self, path, body):
        with self._lock:
            self.n_at_once += 1
            self.most_at_once = max(self.most_at_once, self.n_at_once)
            self.bodies.append((path, dict(body)))
            is_busy, self.n_busy = self.n_busy > 0, self.n_busy - 1
        threading.Event().wait(0.01)
        with self._lock:
            self.n_at_once -= 1
        if is_busy:
            code = {503: "overloaded", 429: "rate_limit_exceeded", 401: "invalid_api_key"}[
                self.status
            ]
            error = {"error": {"message": "no", "code": code}}
            return httpx.Response(self.status, json=error, headers={"retry-after": "2"})
        said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= {"text": said.upper()} if "prompt" in body else {
            "message": {"role": "assistant", "content": said.upper()}}  # fmt: skip
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})


def run(client, orders, **options):
    out = io.StringIO()
    totals = generate(client, orders, out, sleep=lambda _s: None, **options)
    return totals, [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_line_is_answered_once_and_few_at_a_time():
    client = Client()
    orders = [Order(str(n), DEFAULTS | {"prompt": f"p{n}"}) for n in range(40)]
    totals, lines = run(client, orders, concurrency=4)
    assert {line["id"]: line["text"] for line in lines} == {str(n): f"P{n}" for n in range(40)}
    assert (totals.n_answered, totals.n_failed, totals.n_skipped) == (40, 0, 0)
    assert client.most_at_once <= 4


def test_what_is_answered_already_is_not_asked_again(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text('{"id": "1", "text": "x"}\n{"id": "2", "error": {}}\n{"id": "3", "te')
    assert done_in(out) == {"1"}
    assert done_in(tmp_path / "none") == frozenset()
    orders = [Order(str(n), DEFAULTS | {"prompt": "p"}) for n in (1, 2, 3)]
    totals, lines = run(Client(), orders, done=done_in(out))
    assert sorted(line["id"] for line in lines) == ["2", "3"]
    assert totals.n_skipped == 1


def test_an_output_that_was_cut_short_goes_on_behind_its_last_whole_line(tmp_path):
    path = tmp_path / "out.jsonl"
    text = "one\u2028two\x85three"
    path.write_text(json.dumps({"id": "1", "text": text}, ensure_ascii=False) + '\n{"id": "2", "te')
    with opened(path) as out:
        assert done_in(path) == {"1"}
        with pytest.raises(ConflictError), opened(path):
            pass
        generate(Client(), [Order("2", DEFAULTS | {"prompt": text})], out, done=done_in(path))
    lines = [json.loads(line) for line in path.read_text().strip().split("\n")]
    assert [(line["id"], line["text"]) for line in lines] == [("1", text), ("2", text.upper())]
    with pytest.raises(ConfigError), opened(tmp_path):
        pass


def test_what_cannot_be_sent_or_read_stops_no_other(tmp_path):
    class Odd(Client):
        def post(self, path, body):
            body["prompt"].encode()
            return httpx.Response(200, text="no JSON") if body["prompt"] == "odd" else super().post(
                path, body
            )  # fmt: skip

    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "\\ud800"}\n{"prompt": "odd"}\n{"prompt": "a", "stream": true}\n'
                    '{"prompt": "b"}\n')  # fmt: skip
    totals, lines = run(Odd(), read_orders(path, DEFAULTS, as_chat=False))
    assert (totals.n_answered, totals.n_failed) == (1, 3)
    assert {line["id"]: line["error"]["code"] for line in lines if "error" in line} == {
        "1": "data_invalid", "2": "data_invalid", "3": "data_invalid",
    }  # fmt: skip


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again_after_what_it_says(status):
    client, waits = Client(n_busy=3, status=status), []
    assert text_of(ask(client, one_order("a", DEFAULTS, as_chat=False), waits.append)) == "A"
    assert waits == [2.0, 4.0, 8.0]
    with pytest.raises(OverloadedError):
        ask(Client(n_busy=99), one_order("a", DEFAULTS, as_chat=False), waits.append)
    with pytest.raises(AuthError):
        ask(Client(n_busy=1, status=401), one_order("a", DEFAULTS, as_chat=False), waits.append)


def test_a_line_that_is_none_stops_no_other(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"prompt": "a", "id": "x", "max_tokens": 3}\n\n{bad\n[1]\n'
        '{"prompt": "a", "messages": []}\n'
        '{"messages": [{"role": "user", "content": "hi"}]}\n'
    )
    client = Client()
    totals, lines = run(client, read_orders(path, DEFAULTS, as_chat=False))
    assert (totals.n_answered, totals.n_failed) == (2, 3)
    by_id = {line["id"]: line for line in lines}
    assert by_id["x"]["text"] == "A"
    assert by_id["6"]["text"] == "HI"
    assert "line 3" in by_id["3"]["error"]["message"]
    assert capsys.readouterr().err.count("\n") == 3
    assert ("/v1/completions", {"model": "demo", "prompt": "a", "max_tokens": 3}) in client.bodies


def test_plain_lines_are_prompts_or_messages(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one \n\ntwo\n")
    orders = list(read_orders(path, DEFAULTS, as_chat=False))
    assert [(order.id, order.body["prompt"]) for order in orders] == [("1", "one "), ("3", "two")]
    chats = list(read_orders(path, DEFAULTS, as_chat=True))
    assert chats[1].body["messages"] == [{"role": "user", "content": "two"}]
    assert chats[1].path == "/v1/chat/completions"


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        list(read_orders(tmp_path / "nowhere.txt", DEFAULTS, as_chat=False))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary"):
        list(read_orders(tmp_path / "binary", DEFAULTS, as_chat=False))


def test_what_goes_wrong_with_one_is_told_with_its_id():
    class Broken(Client):
        def post(self, path, body):
            raise MulmError("gone")

    totals, [line] = run(Broken(), [Order("7", DEFAULTS | {"prompt": "p"})])
    assert line == {"id": "7", "error": {"code": "internal", "message": "gone"}}
    assert totals.n_failed == 1


def test_of_two_lines_with_one_id_the_second_is_not_asked(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = [{"prompt": "a", "id": 3}, {"prompt": "b"}, {"prompt": "c"}, {"prompt": "d", "id": "3"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    client = Client()
    for done in (frozenset(), frozenset({"3", "2"})):
        orders = read_orders(path, DEFAULTS, as_chat=False)
        totals, told = run(client, orders, done=done)
        assert totals.n_wrong == totals.n_failed == 2
        messages = {line["error"]["message"] for line in told if "error" in line}
        assert messages == {f"line {n} has the id '3', as line 1 has" for n in (3, 4)}
    assert sorted(body["prompt"] for _, body in client.bodies) == ["a", "b"]


def test_a_line_that_no_json_can_say_is_told_in_our_words(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "temperature": NaN}\n{"prompt": "\\ud800"}\n')
    client = Client()
    _, told = run(client, read_orders(path, DEFAULTS, as_chat=False))
    messages = {line["id"]: line["error"]["message"] for line in told}
    assert messages == {
        "1": "line 1 is not JSON: NaN is no number",
        "2": "line 2 holds half a character (a lone surrogate)",
    }
    assert not client.bodies


def test_a_line_that_a_server_refuses_is_wrong_and_one_that_it_does_not_reach_is_not():
    class Strict(Client):
        def post(self, path, body):
            if body["prompt"] == "away":
                raise MulmError("gone")
            if isinstance(body["prompt"], str):
                return super().post(path, body)
            error = {"message": "prompt: must be text", "code": "invalid_value"}
            return httpx.Response(400, json={"error": error})

    orders = [Order(str(p), DEFAULTS | {"prompt": p}) for p in ("a", 5, "away")]
    for concurrency in (1, 16):
        totals, _ = run(Strict(), orders, concurrency=concurrency)
        assert (totals.n_answered, totals.n_failed, totals.n_wrong) == (1, 2, 1)
