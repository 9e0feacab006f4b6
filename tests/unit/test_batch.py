from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm import batch
from mulm.batch import BatchRequest, LineProblem, read_batch

URL = "/v1/completions"


def line(custom_id: object = "a", **changes: Any) -> bytes:
    values = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"prompt": "x"}}
    return json.dumps(values | changes).encode() + b"\n"


def read(tmp_path: Path, content: bytes) -> list[BatchRequest | LineProblem]:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(content)
    return list(read_batch(path, URL))


def test_lines_are_requests(tmp_path: Path) -> None:
    found = read(tmp_path, line("a") + b"\n \n" + line("b", body={}) + line("ü\0").rstrip())
    told = {"prompt": "x"}
    assert found == [BatchRequest("a", told), BatchRequest("b", {}), BatchRequest("ü\0", told)]


@pytest.mark.parametrize(("content", "code", "param"), [
    (b"", "empty_file", None),
    (b"\n\n", "empty_file", None),
    (b"{\n", "invalid_json_line", None),
    (b"[1]\n", "invalid_json_line", None),
    (b"\xff\n", "invalid_json_line", None),
    (b"[" * 100_000 + b"\n", "invalid_json_line", None),
    (b'{"a": ' + b"9" * 5000 + b"}\n", "invalid_json_line", None),
    (line(None), "invalid_request", "custom_id"),
    (line(""), "invalid_request", "custom_id"),
    (line("x" * 513), "invalid_request", "custom_id"),
    (line(7), "invalid_request", "custom_id"),
    (line("a") + line("a"), "duplicate_custom_id", "custom_id"),
    (line(method="GET"), "invalid_request", "method"),
    (line(url="/v1/embeddings"), "mismatched_endpoint", "url"),
    (line(url="http://169.254.169.254/"), "mismatched_endpoint", "url"),
    (line(url=["/v1"]), "mismatched_endpoint", "url"),
    (line(body="x"), "invalid_request", "body"),
    (line(body={"stream": True}), "invalid_request", "body.stream"),
])  # fmt: skip
def test_what_is_no_request_is_told(tmp_path, content, code, param) -> None:
    problems = [found for found in read(tmp_path, content) if isinstance(found, LineProblem)]
    assert (problems[0].code, problems[0].param) == (code, param)
    assert len(problems[0].message) < 200


def test_bounds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(batch, "MAX_REQUESTS", 2)
    found = read(tmp_path, line("a") + line("b") + line("c") + line("d"))
    assert [type(item) for item in found] == [BatchRequest, BatchRequest, LineProblem]
    monkeypatch.setattr(batch, "MAX_LINE_BYTES", 10)
    [problem, _] = [*read(tmp_path, line("a")), None]
    assert isinstance(problem, LineProblem)
    assert problem.code == "too_long_line"


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_whatever_stands_there_is_told(tmp_path_factory, content: bytes) -> None:
    found = read(tmp_path_factory.mktemp("any"), content)
    assert found
    assert all(isinstance(item, LineProblem) for item in found)
