"""What is in a dataset, over HTTP as on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.cli import cli
from mulm.config import parse_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer
from tests.unit.serve_app.control_api.conftest import WEAK_KEY
from tests.unit.serve_app.control_api.test_datasets import texts

ROOT = "/api/v1/datasets"


@pytest.fixture
def made(tmp_path: Path, ledger, store) -> None:
    """`made@1` with rejects, and `made@2` with more text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    first = texts().splitlines()
    short = [b'{"text": "short"}', b'{"text": ""}'] * 3
    (folder / "a.jsonl").write_bytes(b"\n".join([*first, *short, *first[:10]]))
    (folder / "chat.jsonl").write_text(
        json.dumps({"messages": [
            {"role": "user", "content": "What is in this \u202e dataset, and who made it? " * 3},
            {"role": "assistant", "content": "Words, and nothing else. " * 5},
        ]})
    )  # fmt: skip
    for _ in range(2):
        recipe = parse_config(Recipe, {
            "name": "made", "sources": [{"path": str(folder)}], "tokenizer": {"vocab_size": 400},
        })  # fmt: skip
        built = build(recipe, store)
        ledger.publish("dataset", "made", built.dataset.id)
        ledger.publish("tokenizer", "made", built.tokenizer.id)
        (folder / "b.jsonl").write_bytes(texts(1))


@pytest.fixture
def command(home, monkeypatch) -> Callable[..., Any]:
    """What a verb of `mulm data` says with --json."""
    monkeypatch.setenv("MULM_HOME", str(home.root))

    def say(*arguments: str) -> Any:
        done = CliRunner().invoke(cli, ["data", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return say


def test_previews_are_those_of_the_command_line(api, made, command):
    said = command("preview", "made", "-n", "5", "--tokens", "--mask")
    told = api.get(f"{ROOT}/made/preview?n=5")
    assert told == {"object": "list", "data": said, "has_more": False}
    assert all(set(token) == {"id", "text", "completes", "is_special", "is_learned"}
               for document in said for token in document["tokens"])  # fmt: skip
    [chat] = api.get(f"{ROOT}/made/preview?n=1&grep=who%20made&chars=100000")["data"]
    learned = "".join(t["completes"] for t in chat["tokens"] if t["is_learned"])
    assert "Words, and nothing else." in learned
    assert "dataset" not in learned
    options = ("-n", "4", "--split", "validation", "--seed", "7", "--chars", "50")
    query = "n=4&split=validation&seed=7&chars=50&tokens=false"
    assert api.get(f"{ROOT}/made@1/preview?{query}")["data"] == command(
        "preview", "made@1", *options
    )


@pytest.mark.parametrize(
    ("route", "verb"),
    [
        ("made@1/stats", ["stats", "made@1"]),
        ("made@1/rejects?n=2&seed=3", ["rejects", "made@1", "-n", "2", "--seed", "3"]),
        ("made@1/diff?other=made@2&n=4", ["diff", "made@1", "made@2", "-n", "4"]),
        ("made@2/lineage", ["lineage", "made@2"]),
    ],
)
def test_other_looks_are_those_of_the_command_line(api, made, command, route, verb):
    told = api.get(f"{ROOT}/{route}")
    assert told.pop("object") in ("dataset.stats", "dataset.rejects", "dataset.diff", "lineage")
    assert told == command(*verb)


def test_rejects_come_in_pages(api, made):
    whole = api.get(f"{ROOT}/made@1/rejects?n=0")
    assert whole["reasons"]["duplicate"] == 10
    assert whole["samples"] == []
    for reason, count in whole["reasons"].items():
        found: list[dict[str, Any]] = []
        query = "limit=3"
        while True:
            page = api.get(f"{ROOT}/made@1/rejects/{reason}?{query}")
            found += page["data"]
            if not page["has_more"]:
                break
            query = f"limit=3&after={page['last_id']}"
        assert len({item["id"] for item in found}) == len(found) == count
        assert {item["decision"] for item in found} == {reason}
        assert [item["number"] for item in found] == sorted(item["number"] for item in found)
        assert all((item["original"] is not None) == (reason == "duplicate") for item in found)
    assert api.get(f"{ROOT}/made@1/rejects/duplicate?after={2**62 - 1}")["data"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("none/preview", 404),
        ("made@9/stats", 404),
        ("made/preview?n=0", 400),
        ("made/preview?n=101", 400),
        ("made/preview?chars=100001", 400),
        ("made/preview?seed=-1", 400),
        ("made/preview?seed=99999999999999999999", 400),
        ("made/preview?split=test", 400),
        ("made/preview?source=nobody", 400),
        ("made/preview?grep=" + "x" * 1001, 400),
        ("made/rejects/train", 400),
        ("made/rejects/no_such", 400),
        ("made/rejects/duplicate?after=x", 400),
        ("made/rejects/duplicate?after=99999999999999999999", 400),
        ("made/diff", 400),
        ("made/diff?other=none", 404),
        ("made/diff?other=..%2F..", 400),
        ("%00/lineage", 400),
        ("a" * 5000 + "/stats", 400),
    ],
)
def test_impossible_looks(api, made, path, status):
    assert len(api.refused("GET", f"{ROOT}/{path}", status)["detail"]) < 300


def test_a_version_without_documents_says_so(api, versions):
    for look in ("preview", "stats", "rejects", "rejects/duplicate", "diff?other=text"):
        assert "documents" in api.refused("GET", f"{ROOT}/text/{look}", 404)["detail"]
    assert api.get(f"{ROOT}/text/lineage")["refs"] == ["text@1"]


TOKENIZER = "/api/v1/tokenizers/made"
TEXTS = ["", "the <|im_end|> of it", "wörld \U0001f600\0", "x" * 100_000]


def test_texts_to_ids_and_back(api, made, ledger, store):
    manifest = store.load(ledger.versions("tokenizer", "made")[-1].manifest_id)
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json")))
    reply = api.call("POST", f"{TOKENIZER}/encode", json={"texts": TEXTS, "with_tokens": True})
    told = reply.json()
    assert told["tokenizer"] == "made@2"
    assert [item["ids"] for item in told["data"]] == [tokenizer.encode(text) for text in TEXTS]
    assert all(len(item["tokens"]) == item["n_tokens"] == len(item["ids"]) for item in told["data"])
    ids = [item["ids"] for item in told["data"]]
    back = api.call("POST", f"{TOKENIZER}/decode", json={"ids": ids}).json()
    assert [item["text"] for item in back["data"]] == TEXTS


def test_a_tokenizer_is_what_it_is_on_the_command_line(api, made, home, monkeypatch):
    monkeypatch.setenv("MULM_HOME", str(home.root))
    done = CliRunner().invoke(cli, ["tokenizer", "show", "made@1", "--json"])
    said = json.loads(done.stdout)
    told = api.get("/api/v1/tokenizers/made@1/vocabulary")
    assert told.pop("object") == "tokenizer.vocabulary"
    assert told == {key: said[key] for key in told}
    assert len(told["special_tokens"]) > 1
    relatives = api.get("/api/v1/tokenizers/made@1/lineage")
    assert relatives["id"] == told["tokenizer_id"]
    assert [one["refs"] for one in relatives["descendants"] if one["distance"] == 1] == [["made@1"]]
    for look in ("vocabulary", "lineage"):
        api.refused("GET", f"/api/v1/tokenizers/none/{look}", 404)
        api.refused("GET", f"/api/v1/tokenizers/a%20b/{look}", 400)
        api.refused("GET", f"{TOKENIZER}/{look}", 403, key=WEAK_KEY)


def test_a_damaged_tokenizer_is_told(api, made, ledger, store):
    blob = store.load(ledger.versions("tokenizer", "made")[0].manifest_id).blob("tokenizer.json")
    path = store.path(blob)
    path.chmod(0o644)
    path.write_bytes(b"?" * blob.size_bytes)
    told = api.refused("GET", "/api/v1/tokenizers/made@1/vocabulary", 500)
    assert told["code"] == "corrupt"


@pytest.mark.parametrize(("act", "body", "status"), [
    ("encode", {}, 400),
    ("encode", {"texts": []}, 400),
    ("encode", {"texts": "text"}, 400),
    ("encode", {"texts": [1]}, 400),
    ("encode", {"texts": ["x"] * 1025}, 400),
    ("encode", {"texts": ["x"], "extra": 1}, 400),
    ("encode", {"texts": ["\ud800"]}, 400),
    ("encode", {"texts": ["x" * (10 << 20)]}, 413),
    ("decode", {"ids": [[400]]}, 400),
    ("decode", {"ids": [[-1]]}, 400),
    ("decode", {"ids": [[1.5]]}, 400),
    ("decode", {"ids": [[True]]}, 400),
    ("decode", {"ids": [["1"]]}, 400),
    ("decode", {"ids": [[10**30]]}, 400),
    ("decode", {"ids": [1]}, 400),
    ("decode", {"ids": []}, 400),
])  # fmt: skip
def test_impossible_texts_and_ids(api, made, act, body, status):
    sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
    assert len(api.refused("POST", f"{TOKENIZER}/{act}", status, **sent)["detail"]) < 500
    sent = {"json": {"texts": ["x"]} if act == "encode" else {"ids": [[1]]}}
    api.refused("POST", f"/api/v1/tokenizers/none/{act}", 404, **sent)
    api.refused("POST", f"{TOKENIZER}/{act}", 403, key=WEAK_KEY, **sent)
