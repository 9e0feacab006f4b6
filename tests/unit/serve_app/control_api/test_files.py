"""`/v1/files`, by the official client and by hand."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx2
import openai
import pytest
from starlette.responses import FileResponse

from mulm.errors import MulmError
from mulm.gc import collect, plan_gc
from mulm.settings import Settings
from mulm.store import Store
from serve_app.ingress import make_app
from serve_app.upload import Upload
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

ROOT = "/v1/files"
CHUNK = FileResponse.chunk_size
LINES = b'{"text": "a line"}\n' * 100


def upload(api: Any, content: bytes = LINES, name: str = "lines.jsonl", **options: Any) -> Any:
    options = {"data": {"purpose": "fine-tune"}, "files": {"file": (name, content)}} | options
    return api.call("POST", ROOT, **options)


SMALL = Settings(max_upload_bytes=1000)


def refused(reply: httpx2.Response, status: int) -> dict[str, Any]:
    """The error object of OpenAI."""
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def stored(store: Store) -> list[str]:
    found = [p for p in store.root.rglob("*") if p.is_file()] if store.root.exists() else []
    return sorted(str(path.relative_to(store.root)) for path in found)


def test_the_official_client(api, store):
    async def check():
        client = openai.AsyncOpenAI(
            api_key=KEY, base_url="http://test/v1", max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api.app)),
        )  # fmt: skip
        made = await client.files.create(file=("lines.jsonl", LINES), purpose="fine-tune")
        assert (made.object, made.bytes, made.filename) == ("file", len(LINES), "lines.jsonl")
        assert (made.purpose, made.status) == ("fine-tune", "processed")
        assert await client.files.retrieve(made.id) == made
        assert (await client.files.content(made.id)).content == LINES
        others = [
            await client.files.create(file=(f"{n}.txt", b"x" * n), purpose="batch")
            for n in range(1, 6)
        ]
        listed = [file.id async for file in client.files.list(limit=2)]
        assert listed == [file.id for file in [*others[::-1], made]]
        batch = [file.id async for file in client.files.list(purpose="batch", order="asc")]
        assert batch == [file.id for file in others]
        assert (await client.files.delete(made.id)).deleted is True
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.delete(made.id)

    asyncio.run(check())


def test_a_purpose_that_names_nothing_is_said_to(api):
    for known in ("evals", "batch_output", "model_export"):
        assert api.get(f"{ROOT}?purpose={known}")["data"] == []
    told = api.call("GET", f"{ROOT}?purpose=foo")
    assert (told.status_code, told.json()["error"]["param"]) == (400, "purpose")


def test_a_file_of_many_megabytes_is_stored_as_it_is(api, store):
    content = os.urandom(5 << 20)
    made = upload(api, content).json()
    assert made["bytes"] == len(content)
    assert api.call("GET", f"{ROOT}/{made['id']}/content").content == content
    part = api.call("GET", f"{ROOT}/{made['id']}/content", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\u202egnp.exe", "n" * 10_240, "..", "/", "\U0001f600", " "]
)
def test_hostile_names_are_labels(api, store, name):
    made = upload(api, name=name).json()
    assert made["filename"] == name
    assert api.get(f"{ROOT}/{made['id']}") == made
    assert api.call("GET", f"{ROOT}/{made['id']}/content").content == LINES
    [blob] = stored(store)
    assert blob == f"blobs/{made['sha256'][:2]}/{made['sha256']}"


BOUND = {"content-type": "multipart/form-data; boundary=edge"}
FILE = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
PURPOSE = b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
END = b"--edge--\r\n"
BAD: dict[str, tuple[dict[str, Any], str | None]] = {
    "no form": ({"content": b"{}", "headers": {"content-type": "application/json"}}, None),
    "no type": ({"content": LINES}, None),
    "deep": ({"content": b"[" * 10_000, "headers": BOUND}, None),
    "no end": ({"content": FILE + PURPOSE, "headers": BOUND}, None),
    "no file": ({"content": PURPOSE + END, "headers": BOUND}, "file"),
    "no purpose": ({"content": FILE + END, "headers": BOUND}, "purpose"),
    "two files": ({"content": PURPOSE + FILE + FILE + END, "headers": BOUND}, "file"),
    "two purposes": ({"content": PURPOSE + FILE + PURPOSE + END, "headers": BOUND}, "purpose"),
    "a field": ({"content": FILE.replace(b'; filename="a"', b"") + END, "headers": BOUND}, "file"),
    "nothing in it": ({"content": b""}, "file"),
    "unknown purpose": ({"data": {"purpose": "vision"}}, "purpose"),
    "long purpose": ({"data": {"purpose": "x" * 100_000}}, "purpose"),
    "unknown field": ({"data": {"purpose": "batch", "expires_after[seconds]": "1"}},
                      "expires_after[seconds]"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_forms_are_refused_and_leave_nothing(api, ledger, store, case):
    options, param = BAD[case]
    if "headers" in options:
        reply = api.call("POST", ROOT, **options)
    elif "content" in options:
        reply = upload(api, options["content"], **({} if param else {"files": None}))
    else:
        reply = upload(api, **options)
    error = refused(reply, 400)
    assert (error["code"], error["param"]) == ("invalid_value", param)
    assert len(reply.content) < 1000
    assert stored(store) == []
    assert ledger.files() == []


def test_a_purpose_may_come_before_or_behind_the_file(api):
    for content in (PURPOSE + FILE + END, FILE + PURPOSE + END):
        assert api.call("POST", ROOT, content=content, headers=dict(BOUND)).status_code == 200


@pytest.mark.parametrize("claims", [True, False])
def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(api, ledger, store, claims):
    state = api.app.state
    api.app = make_app(state.service, state.keys, control=state.control, settings=SMALL)
    assert upload(api, b"x" * 1000).status_code == 200
    before = stored(store)

    async def endless():
        yield FILE[:-3]
        for _ in range(40):
            yield b"x" * 100_000

    sent = {"content": endless(), "headers": dict(BOUND)} if not claims else {}
    reply = api.call("POST", ROOT, **sent) if sent else upload(api, b"x" * 3_000_000)
    assert refused(reply, 413)["code"] == "request_too_large"
    assert refused(upload(api, b"x" * 1001), 413)["param"] == "file"
    assert stored(store) == before
    assert len(ledger.files()) == 1


def test_other_bodies_keep_their_limit(api):
    api.refused("POST", "/api/v1/runs", 413, content=b"x" * (10 << 20))


class Stream:
    """A request whose body is given."""

    def __init__(self, *messages: dict[str, Any] | float) -> None:
        self._messages = list(messages)

    def request(self) -> Any:
        from starlette.requests import Request

        headers = [(b"content-type", BOUND["content-type"].encode())]
        return Request({"type": "http", "method": "POST", "headers": headers}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        message = self._messages.pop(0)
        if isinstance(message, float):
            await asyncio.sleep(message)
            return await self._receive()
        return message


def chunk(body: bytes) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": True}


GONE = {"type": "http.disconnect"}


SLOW = [each for _ in range(90) for each in (chunk(b"-"), 0.03)]


@pytest.mark.parametrize(
    ("messages", "idle_s", "timeout_s", "code"),
    [
        ([chunk(FILE), GONE], 30.0, 30.0, "invalid_value"),
        ([chunk(FILE), 90.0, GONE], 0.2, 30.0, "request_timeout"),
        (SLOW, 30.0, 0.5, "request_timeout"),
    ],
    ids=["cut", "still", "slow"],
)
def test_a_cut_or_slow_upload_leaves_nothing(store, messages, idle_s, timeout_s, code):
    async def check():
        async with Upload(store, 1000, ("purpose",), idle_s, timeout_s) as under_test:
            with pytest.raises(MulmError) as caught:
                await under_test.read(Stream(*messages).request())
            assert caught.value.code == code

    asyncio.run(check())
    assert stored(store) == []


def test_an_upload_whose_work_is_cancelled_leaves_nothing(store):
    async def check():
        async with Upload(store, 1 << 30, ("purpose",)) as under_test:
            many = Stream(chunk(FILE[:-2]), chunk(b"x" * (2 << 20)), 9.0)
            work = asyncio.create_task(under_test.read(many.request()))
            while not any("incoming" in name for name in stored(store)):
                await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(check())
    assert stored(store) == []


def test_a_full_disk_is_told_early(api, store, monkeypatch):
    monkeypatch.setattr("mulm.blobs.shutil.disk_usage", lambda _: type("U", (), {"free": 10})())
    assert refused(upload(api), 507)["code"] == "no_space"
    assert stored(store) == []


def test_keys_for_inference_may_not(api):
    assert refused(upload(api, key=WEAK_KEY), 403)["code"] == "forbidden"
    assert refused(api.call("GET", ROOT, key=WEAK_KEY), 403)["code"] == "forbidden"


@pytest.mark.parametrize("file_id", ["file_none", "..", "%00", "%2e%2e%2fkeys", "x" * 5000])
def test_unknown_ids(api, file_id):
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        error = refused(api.call(method, f"{ROOT}/{file_id}{path}"), 404)
        assert error["code"] == "not_found"
        assert len(error["message"]) < 300


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=file_x"])
def test_impossible_pages(api, query):
    refused(api.call("GET", f"{ROOT}?{query}"), 404 if "after" in query else 400)


def test_damaged_bytes_are_not_handed_out(api, store):
    made = upload(api).json()
    path = store.root / "blobs" / made["sha256"][:2] / made["sha256"]
    path.chmod(0o644)
    path.write_bytes(LINES[::-1])
    assert refused(api.call("GET", f"{ROOT}/{made['id']}/content"), 500)["code"] == "corrupt"
    path.unlink()
    assert refused(api.call("GET", f"{ROOT}/{made['id']}/content"), 500)["code"] == "corrupt"


@pytest.mark.parametrize("n_bytes", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_a_large_file_begins_at_once_and_is_cut_short_if_it_is_damaged(
    api, store, monkeypatch, n_bytes
):
    monkeypatch.setattr("serve_app.openai_api.files._CHECKED_BEFORE_BYTES", 0)
    content = os.urandom(n_bytes)
    made = upload(api, content).json()
    place = f"{ROOT}/{made['id']}/content"
    with monkeypatch.context() as patch:
        patch.setattr("mulm.blobs.hash_file", lambda _: pytest.fail("nothing waits for a checksum"))
        assert api.call("GET", place).content == content
        part = api.call("GET", place, headers={"range": "bytes=0-"})
        assert (part.status_code, part.content) == (206, content)
    path = store.root / "blobs" / made["sha256"][:2] / made["sha256"]
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    reply = api.call("GET", place)
    assert int(reply.headers["content-length"]) == n_bytes
    assert len(reply.content) < n_bytes
    path.write_bytes(content + b"x")
    assert refused(api.call("GET", place), 500)["code"] == "corrupt"


def test_a_damaged_file_that_lies_elsewhere_too_is_mended(
    api, ledger, store, tmp_path, monkeypatch
):
    monkeypatch.setattr("serve_app.openai_api.files._CHECKED_BEFORE_BYTES", 0)
    made = upload(api).json()
    path = store.root / "blobs" / made["sha256"][:2] / made["sha256"]
    path.chmod(0o644)
    path.write_bytes(LINES[::-1])

    class Elsewhere:
        def fetch(self, sha256):
            yield LINES

    monkeypatch.setattr(store, "_origin", Elsewhere())
    assert api.call("GET", f"{ROOT}/{made['id']}/content").content == b""
    assert api.call("GET", f"{ROOT}/{made['id']}/content").content == LINES
    path.unlink()
    assert api.call("GET", f"{ROOT}/{made['id']}/content").content == LINES


def test_the_bytes_stay_as_long_as_the_file(api, ledger, store):
    first, again = upload(api).json(), upload(api, name="again.jsonl").json()
    later_s = store._clock() + 10 * 86_400
    assert collect(plan_gc(store, ledger, later_s)) == 0
    api.call("DELETE", f"{ROOT}/{first['id']}")
    assert collect(plan_gc(store, ledger, later_s)) == 0, "the other has the same bytes"
    api.call("DELETE", f"{ROOT}/{again['id']}")
    assert collect(plan_gc(store, ledger, later_s)) == len(LINES)
