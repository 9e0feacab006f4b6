"""`mulm chat` and `mulm generate` as a person calls them, against a server of ours."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest

from jobs.exit_codes import EXIT_BY_CODE
from jobs.journey import Journey
from mulm.home import Home
from tests.unit.jobs.command import run


class Client:
    """Answers with what it was asked."""

    asked: list[dict[str, Any]]

    def __init__(self) -> None:
        self.asked = []

    def models(self) -> list[str]:
        return ["demo"]

    def post(self, _path: str, body: dict[str, Any]) -> httpx.Response:
        self.asked.append(dict(body))
        choice = {"index": 0, "finish_reason": "stop", "text": body["prompt"].upper()}
        return httpx.Response(200, json={"choices": [choice], "usage": {}})

    def close(self) -> None:
        return


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.setattr(Journey, "client", lambda _self: made)
    return made


def test_what_is_given_is_sent_and_nothing_else(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys, "generate", "hi", "--seed", "0", "--max-tokens", "0", "--temperature", "0",
        "--stop", "a", "--stop", "b",
    )  # fmt: skip
    assert (code, out) == (0, "HI\n"), err
    assert client.asked == [
        {"model": "demo", "prompt": "hi", "seed": 0, "max_tokens": 0, "temperature": 0.0,
         "stop": ["a", "b"]}
    ]  # fmt: skip


def test_a_file_is_answered_once(
    client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    argv = ("generate", "--file", str(source), "--out", str(out))
    assert run(capsys, *argv)[0] == 0
    code, _, err = run(capsys, *argv)
    assert code == 0
    assert "2 were there already" in err
    assert len(client.asked) == 2
    assert {json.loads(line)["text"] for line in out.read_text().splitlines()} == {"ONE", "TWO"}


@pytest.mark.parametrize(
    "argv",
    [
        ("generate", "\udcff"),
        ("generate", "a", "--stop", "\udcff"),
        ("chat", "\udcff"),
        ("chat", "a", "--system", "\udcff"),
    ],
)
def test_what_is_no_text_is_told_and_not_sent(
    client: Client, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, *argv)
    assert code == EXIT_BY_CODE["data_invalid"], err
    assert "UTF-8" in err
    assert client.asked == []


def test_what_cannot_be_done_has_a_way_out(
    client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    source, answers = tmp_path / "in.jsonl", str(tmp_path / "out.jsonl")
    source.write_text("\n")
    code, _, err = run(capsys, "generate", "--file", str(source), "--out", answers)
    assert code == EXIT_BY_CODE["data_invalid"]
    assert "nothing to ask" in err
    assert not (tmp_path / "out.jsonl").exists()
    source.write_text('{"prompt": "a"}\nno json\n')
    code, _, err = run(capsys, "generate", "--file", str(source), "--out", answers)
    assert code == EXIT_BY_CODE["job_failed"]
    assert "line 2 is not JSON" in err
    assert "mend the lines" in err
    assert "the same again" not in err
    lost = str(tmp_path / "nope" / "x.jsonl")
    code, _, err = run(capsys, "generate", "--file", str(source), "--out", lost)
    assert code == EXIT_BY_CODE["not_found"]
    assert "make it first" in err


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_a_pipe_that_is_no_text_is_told(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(b"\xff\xfe bad\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", pipe)
    code, _, err = run(capsys, verb)
    assert code == EXIT_BY_CODE["data_invalid"], err
    assert client.asked == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("argv", [
    ("chat", "hi", "--temperature"),
    ("chat", "hi", "--top-p"),
    ("generate", "hi", "--temperature"),
    ("generate", "hi", "--top-p"),
    ("data", "gc", "--grace"),
    ("compress", "demo", "--to", "pruned", "--keep"),
    ("train", "a.yaml", "--watts"),
    ("train", "a.yaml", "--price-per-kwh"),
])  # fmt: skip
def test_a_number_is_finite(
    client: Client, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], value: str
) -> None:
    code, out, err = run(capsys, *argv, value)
    assert (code, out) == (EXIT_BY_CODE["config_invalid"], "")
    assert f"{value!r} is not a finite number" in err or "is not in the range" in err
    assert not client.asked
