import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from jobs.chat import Answer, answer, choose_model, converse, talk
from jobs.chat_client import ChatClient, Piece
from jobs.conversation import ChatOptions
from mulm.chat import Message
from mulm.errors import (
    AuthError,
    ConfigError,
    ContextLengthError,
    DeadlineError,
    JobFailedError,
    NotFoundError,
    NotRunningError,
)

KEY = "right"


class Server(BaseHTTPRequestHandler):
    window = 3
    """Messages that the model can read."""
    served: ClassVar[list[str]] = ["demo"]
    deployments: ClassVar[list[object]] = []

    def log_message(self, *args: object) -> None:
        return

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def error(self, status: int, message: str, code: str | None = None) -> None:
        self.send(status, json.dumps({"error": {"message": message, "code": code}}).encode())

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.error(401, "no such key")
        if self.path.startswith("/api/v1/deployments"):
            return self.send(200, json.dumps({"data": self.deployments}).encode())
        return self.send(200, json.dumps({"data": [{"id": name} for name in self.served]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        if prompt == "refuse":
            return self.error(400, "no such thing")
        if len(body["messages"]) > self.window:
            return self.error(400, "too long", "context_length_exceeded")
        events = [{"choices": [{"delta": {"content": word}}]} for word in ("Once ", "upon")]
        events.append({"choices": [], "usage": {"completion_tokens": 3}})
        if prompt == "break":
            events[1] = {"error": {"message": "engine gone"}}
        if prompt == "late":
            events[1] = {"error": {"message": "late", "code": "deadline_exceeded"}}
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        return self.send(200, "".join(lines[: -1 if prompt == "cut" else None]).encode())


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(url: str) -> Iterator[ChatClient]:
    client = ChatClient(url, KEY)
    yield client
    client.close()


def ask(client: ChatClient, prompt: str) -> str:
    turn = Message(role="user", content=prompt)
    return "".join(piece.text for piece in client.stream(ChatOptions("demo"), [turn]))


def test_streams_the_answer(client: ChatClient) -> None:
    out = io.StringIO()
    reply = answer(client, ChatOptions("demo"), [Message(role="user", content="hi")], out)
    assert out.getvalue() == "Once upon\n"
    assert reply.text == "Once upon"


def test_the_servers_error_is_told(client: ChatClient) -> None:
    with pytest.raises(ConfigError, match="no such thing"):
        ask(client, "refuse")


def test_an_error_inside_the_stream_is_told(client: ChatClient) -> None:
    with pytest.raises(JobFailedError, match="engine gone"):
        ask(client, "break")


def test_an_error_inside_the_stream_has_the_class_of_its_code(client: ChatClient) -> None:
    with pytest.raises(DeadlineError, match="late"):
        list(client.stream(ChatOptions("demo"), [Message(role="user", content="late")]))


def test_a_stream_without_an_end_is_an_error(client: ChatClient) -> None:
    with pytest.raises(NotRunningError, match="cut off"):
        list(client.stream(ChatOptions("demo"), [Message(role="user", content="cut")]))


def test_a_wrong_key_is_an_auth_error(url: str) -> None:
    client = ChatClient(url, "wrong")
    with pytest.raises(AuthError, match="no such key"):
        client.models()
    client.close()


def test_nobody_answers() -> None:
    client = ChatClient("http://127.0.0.1:9", KEY)
    with pytest.raises(NotRunningError):
        client.models()
    with pytest.raises(NotRunningError):
        ask(client, "hi")
    client.close()


def test_an_unserved_model_names_the_nearest(client: ChatClient) -> None:
    assert choose_model(client, None) == "demo"
    with pytest.raises(NotFoundError) as caught:
        choose_model(client, "dmo")
    assert "'demo'" in caught.value.hint


def test_what_only_starts_is_said_to(client: ChatClient, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"id": "demo", "status": "running"}, {"id": "late", "status": "starting"}]
    monkeypatch.setattr(Server, "deployments", told)
    assert choose_model(client, None) == "demo"
    with pytest.raises(NotRunningError, match="'late' is starting"):
        choose_model(client, "late")
    with pytest.raises(NotFoundError):
        choose_model(client, "dmo")
    monkeypatch.setattr(Server, "served", [])
    with pytest.raises(NotRunningError, match="'late' is starting"):
        choose_model(client, None)
    for others in ([], ["what"], [{}]):
        monkeypatch.setattr(Server, "deployments", others)
        with pytest.raises(NotRunningError, match="no model is served"):
            choose_model(client, None)


def test_one_answer_as_json(client: ChatClient, capsys: pytest.CaptureFixture[str]) -> None:
    converse(client, ChatOptions("demo"), "hi", as_json=True)
    assert json.loads(capsys.readouterr().out)["answer"] == "Once upon"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say(monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException) -> None:
    """What somebody types, or presses."""
    waiting = iter(lines)

    def read(_prompt: str) -> str:
        line = next(waiting)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)


def test_a_conversation_survives_errors_and_forgets_only_what_it_is_told_to(
    client: ChatClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(
        monkeypatch, "one", "refuse", "two", "three", "/forget", "three", "\udcff", "/sytem",
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "/stats", "/exit",
    )  # fmt: skip
    out = io.StringIO()
    talk(client, ChatOptions("demo"), Terminal(), out)
    assert out.getvalue() == "Once upon\n" * 3
    told = capsys.readouterr().err
    assert "no such thing" in told
    assert "did you mean" in told
    assert "too long (/forget leaves out the oldest exchange" in told
    assert "1 exchange stay" in told
    assert told.count("no UTF-8 text") == 2
    assert "exchanges = 2" in told
    assert told.count("tokens, first after") == 3


def test_a_retry_without_an_answer_keeps_what_it_was_to_replace(
    client: ChatClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once:
        n_asked = 0

        def stream(self, _options: ChatOptions, _messages: list[Message]) -> Iterator[Piece]:
            self.n_asked += 1
            if self.n_asked == 2:
                raise NotRunningError("gone")
            yield Piece("yes", 1)

    say(monkeypatch, "one", "/retry", "/stats", "/retry", "/stats", "/exit")
    talk(Once(), ChatOptions("demo"), Terminal(), io.StringIO())  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("exchanges = 1") == 2


def test_lines_that_end_with_a_backslash_go_on_and_ctrl_c_at_the_prompt_ends(
    client: ChatClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "ref\\", "use", "refuse", KeyboardInterrupt())
    out = io.StringIO()
    talk(client, ChatOptions("demo"), Terminal(), out)
    assert out.getvalue() == "Once upon\n", "only the second was the prompt that is refused"


def test_an_answer_that_is_interrupted_is_part_of_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        asked: ClassVar[list[list[str]]] = []

        def stream(self, _options: ChatOptions, messages: list[Message]) -> Iterator[Piece]:
            self.asked.append([message.content for message in messages])
            yield Piece("half \x1b[2J")
            if len(self.asked) == 1:
                raise KeyboardInterrupt
            yield Piece("", 5)

    say(monkeypatch, "one", "two", EOFError())
    out = io.StringIO()
    talk(Interrupted(), ChatOptions("demo"), Terminal(), out)  # type: ignore[arg-type]
    assert Interrupted.asked == [["one"], ["one", "half \x1b[2J", "two"]]
    assert "\x1b" not in out.getvalue()
    assert "interrupted" in capsys.readouterr().err


def test_speed_is_told_in_words() -> None:
    assert Answer("x", 2.5, 0.5, 101).speed() == "101 tokens, 50 tokens/s, first after 0.50 s"
    assert Answer("x", 2.5, 2.5, 1).speed() == "1 tokens, first after 2.50 s"
    assert Answer("x", 2.5).speed() == "2.5 s"
    assert Answer("x", 0.501, 0.5, 26).speed() == "26 tokens, first after 0.50 s"


def test_the_servers_code_chooses_the_error(client: ChatClient) -> None:
    with pytest.raises(ContextLengthError):
        list(client.stream(ChatOptions("demo"), [Message(role="user", content="hi")] * 4))


def test_json_needs_a_prompt(client: ChatClient) -> None:
    with pytest.raises(ConfigError):
        converse(client, ChatOptions("demo"), None, as_json=True)


def test_piped_lines_are_prompts_of_their_own(
    client: ChatClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    converse(client, ChatOptions("demo"), None, as_json=False)
    assert capsys.readouterr().out == "Once upon\nOnce upon\n"
