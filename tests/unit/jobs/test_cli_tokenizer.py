"""`mulm tokenizer` and `mulm cluster` without the application."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.cluster_info import ClusterInfo
from jobs.cluster_report import report
from mulm.atomic import write_atomic
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_tokenizer


@pytest.fixture
def with_tokenizer(mulm: Any) -> Any:
    home, tokenizer = mulm.home.create(), tiny_tokenizer()
    store = Store(home.store)
    manifest = Manifest(
        kind="tokenizer",
        code_version="1",
        config={},
        tokenizer_fingerprint=tokenizer.fingerprint,
        blobs=(store.put("tokenizer.json", tokenizer.to_bytes()),),
    )
    store.save(manifest)
    dataset = Manifest(
        kind="dataset", code_version="1", config={}, blobs=(), parents={"tokenizer": manifest.id}
    )
    store.save(dataset)
    with Ledger(home.ledger) as facts:
        facts.publish("tokenizer", "books", manifest.id)
        facts.publish("dataset", "prose", dataset.id)
    return mulm


def test_tokenizers_are_listed_and_shown(with_tokenizer: Any) -> None:
    mulm = with_tokenizer
    assert [row["ref"] for row in mulm.json("tokenizer", "ls")] == ["books@1"]
    assert mulm.json("tokenizer", "ls", "others") == []
    told = mulm.json("tokenizer", "show", "books")
    assert told["vocab_size"] == tiny_tokenizer().vocab_size
    assert told["used_by"][0]["refs"] == ["prose@1"]
    assert "<|im_end|>" in told["special_tokens"]
    code, out, _ = mulm("tokenizer", "show", "books@1")
    assert code == 0
    assert "used by      tokenizer ds_" in out
    assert mulm("tokenizer", "show", "nobody")[0] == 3


def test_a_text_is_shown_cut(with_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mulm, text = with_tokenizer, "the wizard wörld\x1b[31m"
    told = mulm.json("tokenizer", "encode", "books", text)
    assert told["ids"] == tiny_tokenizer().encode(text)
    assert len(told["tokens"]) == len(told["ids"])
    code, out, _ = mulm("tokenizer", "encode", "books", text)
    assert code == 0
    assert "\x1b" not in out
    assert f"{len(told['ids'])} tokens" in out
    monkeypatch.setattr("sys.stdin", io.StringIO("the"))
    assert mulm.json("tokenizer", "encode", "books")["ids"] == tiny_tokenizer().encode("the")


@pytest.fixture
def process(mulm: Any) -> Iterator[subprocess.Popen[bytes]]:
    env = {"MULM_CLUSTER": "abc", "MULM_HOME": str(mulm.home.root)}
    with subprocess.Popen(["/bin/sleep", "60"], env=env, start_new_session=True) as sleeping:
        yield sleeping
        sleeping.kill()


def test_a_cluster_that_is_not_up(mulm: Any) -> None:
    assert mulm.json("cluster", "show")["is_up"] is False
    assert "not up" in mulm("cluster", "show")[1]


def test_a_cluster_that_is_up_and_answers_nothing(mulm: Any, process: Any) -> None:
    home: Home = mulm.home.create()
    info = ClusterInfo(
        id="abc", gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:9",
        http_host="127.0.0.1", http_port=9, pid=process.pid, temp_dir="/x",
    )  # fmt: skip
    write_atomic(home.cluster, info.model_dump_json().encode())
    write_atomic(home.ray_token, b"t" * 64)
    found = report(home, clock=lambda: time.time() + 100)
    assert (found.is_up, found.pid, found.jobs, found.http) == (
        True,
        process.pid,
        None,
        "no answer",
    )
    assert found.processes == 1
    assert found.memory_bytes
    assert found.up_s is not None
    assert 100 <= found.up_s < 130
    code, out, _ = mulm("cluster", "show")
    assert code == 0
    assert "the dashboard does not answer" in out
