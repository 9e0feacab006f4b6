"""Every suite is scored from local files and from a hub on loopback, and says what is wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.entry import JobContext
from jobs.evaluate import evaluate
from mulm.errors import DataError, MulmError, NotFoundError, SchemaError
from mulm.eval.config import EvaluateConfig
from mulm.eval.suites.base import GenerationSuite
from mulm.eval.suites.registry import SUITES
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer

COMMIT = "c" * 40
ROWS: dict[str, dict[str, Any]] = {
    "blimp": {"sentence_good": "She is here.", "sentence_bad": "She are here.", "UID": "agree"},
    "lambada": {"text": "He took the bread and ate the bread"},
    "lambada_standard": {"text": "he took the bread and ate the bread"},
    "hellaswag": {
        "ctx_a": "A man stands up.", "ctx_b": "he then", "activity_label": "Standing",
        "endings": ["sits down.", "falls over.", "runs.", "sings."], "label": "1",
    },
    "arc_easy": {
        "question": "What is wet?", "answerKey": "B",
        "choices": {"text": ["sand", "water", "dust"], "label": ["A", "B", "C"]},
    },
    "arc_challenge": {
        "question": "What is dry?", "answerKey": "1",
        "choices": {"text": ["sand", "water"], "label": ["1", "2"]},
    },
    "piqa": {"goal": "dry it", "sol1": "use a towel", "sol2": "use a hose", "label": 0},
    "gsm8k": {"question": "2 + 2?", "answer": "2 and 2 make <<2+2=4>>4.\n#### 4"},
}  # fmt: skip


class FakeHub(ThreadingHTTPServer):
    """Datasets as hubs convert them: Parquet files below a config and a split."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {}
        """By repository."""


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        for repository, files in self.server.files.items():
            if path == f"/api/datasets/{repository}/revision/refs/convert/parquet":
                siblings = [promised(name, content) for name, content in files.items()]
                return self._send(200, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
            name = path.removeprefix(f"/datasets/{repository}/resolve/{COMMIT}/")
            if name in files:
                return self._send(200, files[name])
        return self._send(404, b"")

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def promised(name: str, content: bytes) -> dict[str, Any]:
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return {"rfilename": name, "size": len(content), "lfs": facts}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        model = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=256)
        ledger.publish("model", "speaker", model.id)
        ledger.create_run("run_e", "evaluate", {})
        yield JobContext("run_e", home, store, ledger)


def scores(context: JobContext, name: str, data: dict[str, str]) -> dict[str, Any]:
    values = {"model": "speaker", "suites": [name], "data": data, "device": "cpu"}
    result = evaluate(context, EvaluateConfig.model_validate(values))
    found: dict[str, Any] = result["suites"][name]
    return found


def on_the_hub(hub: FakeHub, url: str, content: bytes) -> None:
    """Put a file where a suite looks for it."""
    owner, name, *_ = url.removeprefix("hf://datasets/").split("/")
    path = url.partition("@~parquet/")[2].replace("*.parquet", "0000.parquet")
    held = hub.files.setdefault(f"{owner}/{name.partition('@')[0]}", {})
    held[path.replace("*", "default")] = content


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return (folder / "rows.parquet").read_bytes()


@pytest.mark.parametrize("name", SUITES)
def test_the_hub_and_local_files_give_the_same_scores(
    context: JobContext, hub: FakeHub, tmp_path: Path, name: str
) -> None:
    suite, rows = SUITES[name], [ROWS[name]] * 7
    local = tmp_path / "rows.jsonl"
    local.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    content = as_parquet(tmp_path, rows)
    on_the_hub(hub, suite.hub, content)
    data = {name: str(local)}
    if isinstance(suite, GenerationSuite) and suite.hub_shots:
        on_the_hub(hub, suite.hub_shots, content)
        data[f"{name}:shots"] = str(local)
    by_file = scores(context, name, data)
    by_hub = scores(context, name, {name: "hub"})
    assert (by_file["origin"], by_hub["origin"]) == ("file", "hub")
    assert by_file["n"] == by_hub["n"] == 7
    assert by_file["metrics"] == by_hub["metrics"]


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (None, NotFoundError, "rows.jsonl"),
        (b"", DataError, "holds no rows"),
        (b'{"something": 1}\n', SchemaError, "has no column"),
        (b"not JSON\n", SchemaError, "no JSON"),
    ],
)
def test_bad_files_are_named(
    context: JobContext,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    error: type[MulmError],
    told: str,
) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=told):
        scores(context, name, {name: str(path)})


def test_a_hub_that_sends_nonsense_or_nothing_is_named(
    context: JobContext, hub: FakeHub, tmp_path: Path
) -> None:
    url = SUITES["piqa"].hub
    with pytest.raises(NotFoundError) as caught:
        scores(context, "piqa", {"piqa": "hub"})
    assert "--data piqa=FILE" in caught.value.hint
    on_the_hub(hub, url, b"PAR1 no parquet")
    with pytest.raises(DataError, match="is damaged"):
        scores(context, "piqa", {"piqa": "hub"})
    on_the_hub(hub, url, as_parquet(tmp_path, [{"something": 1}]))
    with pytest.raises(SchemaError, match="has no column 'goal'"):
        scores(context, "piqa", {"piqa": "hub"})
    empty = pa.table({"goal": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "empty.parquet")
    on_the_hub(hub, url, (tmp_path / "empty.parquet").read_bytes())
    with pytest.raises(DataError, match="holds no rows"):
        scores(context, "piqa", {"piqa": "hub"})
