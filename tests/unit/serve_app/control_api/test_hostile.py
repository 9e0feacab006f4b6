"""What no client should send, to every operation that changes something: the right 4xx, soon, and
nothing is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from serve_app.openapi_examples import EXAMPLES as DESCRIBED
from tests.unit.serve_app.control_api.conftest import Api
from tests.unit.serve_app.control_api.test_files import stored

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
FITTING = {
    "scholar@live": "tiny@1", "scholar@5": "tiny@1", "books": "text", "notes": "text",
    "file_0123456789ab": "file_1",
}  # fmt: skip
"""In place of what the examples of the description name, what is there."""
PLACES = {
    "{kinds}": "models", "{name}": "tiny", "{alias}": "live", "{key_id}": "key_2",
    "{run_id}": "run_live", "{ref}": "text", "{file_id}": "file_1", "{node}": "10.0.0.1",
    "{job_id}": "run_live", "{batch_id}": "run_live", "{model}": "tiny", "{reason}": "short",
}  # fmt: skip


def _fitting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fitting(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fitting(inner) for inner in value]
    return FITTING.get(value, value) if isinstance(value, str) else value


EXAMPLES = {key: _fitting(body) for key, body in DESCRIBED.items()}


def filled(path: str, places: dict[str, str] = PLACES) -> str:
    return re.sub(r"\{\w+\}", lambda found: places.get(found[0], "x"), path)


def fields(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All that is neither a list nor an object, and where it stands."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from fields(inner, (*place, key))
    else:
        yield place, value


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """The same with something else in one place."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


def is_label(path: str, place: tuple[Any, ...]) -> bool:
    """A key's name is what people call it."""
    return path.startswith("/api/v1/keys") and place == ("name",)


@pytest.fixture
def full(api: Api, ledger: Any, versions: Any) -> Api:
    """Something of everything, so that only what is sent is wrong."""
    ledger.create_run("run_live", "train", {"name": "x"})
    ledger.set_phase("run_live", "failed")
    ledger.add_file("file_1", "a.jsonl", "user_data", 4, "0" * 64)
    args = {"model": "tiny@1", "served_name": "tiny"}
    ledger.set_deployment("tiny", {"args": args}, "test")
    return api


@pytest.fixture
def unchanged(full: Api, ledger: Any, store: Any, jobs: Any) -> Iterator[None]:
    def told() -> tuple[Any, ...]:
        facts = (ledger.runs(), ledger.valid_keys(), ledger.deployments(), ledger.files())
        return (ledger.last_happening(), facts, stored(store), list(jobs.submitted))

    before = told()
    yield
    assert told() == before


NESTED = b'{"config": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"
BODIES: dict[str, tuple[bytes, int]] = {
    "10 MB": (b'{"name": "' + b"x" * (10 << 20) + b'"}', 413),
    "10 MB of nothing": (b" " * (10 << 20), 413),
    "lists in lists": (b"[" * 10_000 + b"]" * 10_000, 400),
    "objects in objects": (NESTED, 400),
    "no end": (b'{"a":' * 10_000, 400),
    "half a character": (b'{"name": "\\ud800"}', 400),
    "half a character as a key": (b'{"\\udfff": 1}', 400),
    "no UTF-8": (b'{"name": "\xff"}', 400),
    "UTF-16": ('{"name": "x"}'.encode("utf-16"), 400),
    "half a character in UTF-32": ('{"name": "\\ud800"}'.encode("utf-32"), 400),
    "a huge number": (b'{"version": ' + b"9" * 5000 + b"}", 400),
    "a number beyond floats": (b'{"version": 1e999}', 400),
    "no number": (b'{"version": NaN}', 400),
    "a list": (b"[]", 400),
    "a text": (b'"x"', 400),
    "two": (b"{}{}", 400),
    "a thousand keys": (json.dumps({f"k{n}": n for n in range(1000)}).encode(), 400),
    "a key that nobody knows": (b'{"__proto__": {"x": 1}}', 400),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_hostile_body(full: Api, unchanged: None, kind: str) -> None:
    content, status = BODIES[kind]
    for method, path in EXAMPLES:
        reply = full.call(method.upper(), filled(path), content=content, headers=JSON)
        assert reply.status_code == status, (method, path, reply.text[:300])
        assert len(reply.content) < 2000


CONTENT_TYPES = [
    "text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded",
    "\xff", "",
]  # fmt: skip


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_wrong_content_type(full: Api, unchanged: None, content_type: str) -> None:
    headers = {"content-type": content_type.encode("latin-1")}
    for (method, path), body in EXAMPLES.items():
        content = json.dumps(body).encode()
        reply = full.call(method.upper(), filled(path), content=content, headers=headers)
        assert 400 <= reply.status_code < 500, (method, path, reply.text[:300])


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "1e3", "\xb2", ""])
def test_a_wrong_length(full: Api, unchanged: None, length: str) -> None:
    headers = JSON | {"content-length": length.encode("latin-1")}
    for path in ("/api/v1/keys", "/v1/files"):
        reply = full.call("POST", path, content=b"{", headers=headers)
        assert 400 <= reply.status_code < 500, (path, reply.text[:300])


TEXTS = [
    "a\x00b", "\x00", "../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/b", "%2e%2e%2f", "\u202e",
    "x" * 100_000, "",
]  # fmt: skip
NUMBERS = [10**400, -(10**30), 2**63, 1.5, float("inf"), float("nan"), "1" * 5000, [], None]
ANY_TEXT = {"/api/v1/runs/estimate", "/api/v1/feedback"}
"""The first is not the real one here; the second keeps what people and models have said."""
WHATEVER = {"licence", "texts", "weight"}
"""Fields that hold whatever people write, or any part of a number."""


@pytest.mark.parametrize(
    "operation",
    [each for each in EXAMPLES if each[1].startswith("/api/") and each[1] not in ANY_TEXT],
    ids=" ".join,
)
def test_a_hostile_value_in_the_place_of_every_other(
    full: Api, unchanged: None, operation: tuple[str, str]
) -> None:
    method, path = operation
    for place, value in fields(EXAMPLES[operation]):
        if WHATEVER & {*place}:
            continue
        for new in TEXTS if isinstance(value, str) else NUMBERS:
            if is_label(path, place) and "\x00" not in new and 0 < len(new) < 64:
                continue
            body = json.dumps(changed(EXAMPLES[operation], place, new)).encode()
            reply = full.call(method.upper(), filled(path), content=body, headers=JSON)
            assert 400 <= reply.status_code < 500, (place, str(new)[:40], reply.text[:300])


@pytest.mark.parametrize("value", [True, "1", 1.0])
def test_a_number_is_a_number(full: Api, unchanged: None, value: Any) -> None:
    for method, path in (
        ("PUT", "/api/v1/models/tiny/aliases/live"),
        ("POST", "/api/v1/models/tiny/aliases/live/promote"),
    ):
        told = full.refused(method, path, 400, json={"version": value})
        assert told["param"] == "version"


WAYS_OUT = [
    "..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "..%5c..", "%00", "tiny%00", "%ED%A0%80", "%FF",
    "%0d%0aset-cookie:x", "x" * 5000, "tiny@" + "9" * 400, "tiny@../x", "~root", "%25%2e",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_path_that_leads_out(full: Api, unchanged: None, way: str) -> None:
    document = full.get("/openapi.json")["paths"]
    for method, path in [(verb, each) for each in document for verb in document[each]]:
        for place in set(re.findall(r"\{\w+\}", path)) - {"{kinds}"}:
            body = EXAMPLES.get((method, path))
            reply = full.call(method.upper(), filled(path, PLACES | {place: way}), json=body)
            assert 400 <= reply.status_code < 500, (method, path, place, reply.text[:300])
            assert "root:" not in reply.text


def test_of_many_who_move_an_alias_from_where_they_saw_it_one_does(full: Api, ledger: Any) -> None:
    live, n = "/api/v1/models/tiny/aliases/live", 8

    def put(headers: dict[str, str], version: int) -> int:
        return full.call("PUT", live, json={"version": version}, headers=headers).status_code

    with ThreadPoolExecutor(n) as pool:
        made = list(pool.map(partial(put, {"if-none-match": "*"}), [1] * n))
        moved = list(pool.map(partial(put, {"if-match": '"1"'}), [2] * n))
    assert sorted(made) == sorted(moved) == [200] + [412] * (n - 1)
    history = ledger.alias_history("model", "tiny", "live")
    assert [past.number for past in history] == [2, 1]
