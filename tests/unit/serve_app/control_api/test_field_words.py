"""Whoever gives a value outside of the bounds is told in words what it must be."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mulm.field_words import Told
from mulm.runs.kinds import SCHEMAS
from serve_app.control_api.feedback import NewFeedback
from serve_app.control_api.keys import KeyChange, NewKey
from serve_app.openai_api.fine_tuning_schemas import FineTuneBody

V1 = "/api/v1"


def body_of(**changes: Any) -> dict[str, Any]:
    """What is wrong in one field of a fine-tuning alone."""
    return {"model": "tiny", "training_file": "file_1"} | changes


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("n_epochs", [10**12, 0, 1.5, "x", None], "be 'auto' or a whole number from 1 to 100"),
        ("batch_size", [10**12, -1, True, "Auto"], "be 'auto' or a whole number from 1 to 1024"),
        ("learning_rate_multiplier", [1e9, 0, []], "be 'auto' or a number above 0, 100 at most"),
    ],
)  # fmt: skip
def test_a_number_that_may_be_auto_is_told_its_range(api, field, values, words):
    for value in values:
        given = {"hyperparameters": {field: value}}
        for nested in (given, {"method": {"type": "supervised", "supervised": given}}):
            reply = api.call("POST", "/v1/fine_tuning/jobs", json=body_of(**nested))
            error = reply.json()["error"]
            assert error["code"] == "invalid_value"
            assert error["param"].endswith(f"hyperparameters.{field}")
            assert error["message"] == f"{error['param']}: must {words}"


FEEDBACK = {
    "model": "tiny", "messages": [{"role": "user", "content": "hi"}], "answer": "x",
    "verdict": "up",
}  # fmt: skip
UPLOAD = {"name": "n", "sources": [{"path": "https://data.example/corpora/x", "sha256": "A" * 64}]}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("keys", {"name": "a\nb"}, "1 to 64 characters without control characters"),
        ("keys", {"name": ""}, "1 to 64 characters without control characters"),
        ("feedback", FEEDBACK | {"model": "\x00"}, "without control characters"),
        ("feedback", FEEDBACK | {"model_id": "tiny@1"}, "the `system_fingerprint` of an answer"),
        ("feedback", FEEDBACK | {"answer_id": "a b"}, "visible ASCII characters without spaces"),
        ("datasets", UPLOAD, "64 hexadecimal digits in small letters"),
        ("/v1/fine_tuning/jobs", body_of(suffix="Ü"), "1 to 40 small letters, digits"),
    ],
)
def test_a_pattern_is_told_in_words(api, path, body, words):
    reply = api.call("POST", path if path.startswith("/") else f"{V1}/{path}", json=body)
    assert reply.status_code == 400
    assert words in reply.text
    assert not re.search(r"\^|\[\^|\\x|\{1,", reply.text), "no regular expression"


def test_a_header_is_told_in_words_too(api):
    headers = {"idempotency-key": "a b"}
    told = api.refused("POST", f"{V1}/keys", 400, json={"name": "x"}, headers=headers)
    assert (
        told["detail"]
        == "idempotency-key: must be 1 to 255 visible ASCII characters without spaces"
    )


def test_every_pattern_of_a_body_has_words_beside_it():
    """All bodies, and all configs that stand in one."""
    schemas = {FineTuneBody, NewKey, KeyChange, NewFeedback, *SCHEMAS.values()}
    n = 0
    for schema in schemas:
        for bare, told in _patterns(schema.__pydantic_core_schema__):
            assert told, (schema, bare)
            n += 1
    assert n >= 8


def _patterns(node: Any, is_told: bool = False) -> Any:
    """Patterns within a schema of pydantic, and whether a `Told` stands around each."""
    if isinstance(node, dict):
        check = (
            node.get("function", {}).get("function")
            if node.get("type") == "function-wrap"
            else None
        )
        is_told = is_told or isinstance(getattr(check, "__self__", None), Told)
        if node.get("type") == "str" and "pattern" in node:
            yield node["pattern"], is_told
        for inner in node.values():
            yield from _patterns(inner, is_told)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from _patterns(inner, is_told)
