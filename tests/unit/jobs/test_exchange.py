"""Models leave and come back by the command's own functions, and what came is served and judged."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.cli_model import described
from jobs.entry import JobContext
from jobs.evaluate import evaluate
from jobs.exchange import Exchange
from jobs.progress import Progress
from mulm.chat import Message, render
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DataError,
    MulmError,
    NotFoundError,
    UnknownNameError,
)
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import load_model, store_model
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.testing import (
    TINY,
    tiny_dataset,
    tiny_llama3_tokenizer,
    tiny_model,
    tiny_stored_model,
    tiny_tokenizer,
)
from serve_app.served import open_served
from serve_app.settings import AppArgs


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def exchange(home: Home, tokenizer: Tokenizer) -> Iterator[Exchange]:
    """An installation with one model, `tiny@1`, of Llama's kind."""
    with Ledger(home.ledger) as ledger:
        manifest = tiny_stored_model(Store(home.store), tokenizer, qk_norm=False)
        ledger.publish("model", "tiny", manifest.id)
        ledger.set_alias("model", "tiny", "live", 1)
    with Exchange(home, Progress(io.StringIO()), {}) as made:
        yield made


def answer(store: Store, model_id: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    prompt = render([Message(role="user", content="Hello there")], tokenizer)
    one = GenerateRequest("r", tuple(prompt), SamplingParams(max_tokens=16, temperature=0))
    model = load_model(store, store.load(model_id))
    return Engine(model, n_slots=2).generate([one])["r"].token_ids


def test_an_exported_model_comes_back_and_answers_alike(
    exchange: Exchange, home: Home, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    exported = exchange.export("tiny@live", "hf", tmp_path / "hf")
    assert exported["model"] == "tiny@1"
    assert exported["size_bytes"] == sum(p.stat().st_size for p in (tmp_path / "hf").iterdir())
    imported = exchange.import_model(str(tmp_path / "hf"), "again")
    assert imported["model"] == "again@1"
    assert imported["licences"] == ["cc0-1.0"]
    assert imported["chat_template"] == "same"
    store = Store(home.store)
    expected = answer(store, exported["model_id"], tokenizer)
    assert len(set(expected)) > 3
    assert answer(store, imported["model_id"], tokenizer) == expected
    assert exchange.import_model(str(tmp_path / "hf"), "again") == imported
    exchange.export("again", "hf", tmp_path / "second")
    for path in (tmp_path / "hf").iterdir():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()


def test_a_model_with_the_tokenizer_of_llama_3_comes_and_goes(
    exchange: Exchange, home: Home, tmp_path: Path
) -> None:
    store, tokenizer = Store(home.store), tiny_llama3_tokenizer()
    first = tiny_stored_model(store, tokenizer, qk_norm=False)
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "llama", first.id)
    exchange.export("llama", "hf", tmp_path / "hf")
    imported = exchange.import_model(str(tmp_path / "hf"), "again")
    assert (imported["chat_format"], imported["chat_template"]) == ("Llama 3", "same")
    assert answer(store, imported["model_id"], tokenizer) == answer(store, first.id, tokenizer)
    exchange.export("again", "hf", tmp_path / "second")
    for path in (tmp_path / "hf").iterdir():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()
    exchange.export("again", "gguf", tmp_path / "again.gguf")
    with Ledger(home.ledger) as facts:
        served = open_served(AppArgs(model="again@1"), store, facts, engine=None)
    assert served.tokenizer.chat_format.name == "Llama 3"


def test_an_imported_model_can_be_evaluated(
    exchange: Exchange, home: Home, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    exchange.export("tiny", "hf", tmp_path / "hf")
    exchange.import_model(str(tmp_path / "hf"), "again")
    store = Store(home.store)
    fingerprint = tokenizer.fingerprint
    dataset = tiny_dataset(store, vocab_size=320, tokenizer_fingerprint=fingerprint)
    with Ledger(home.ledger) as facts:
        facts.publish("dataset", "text", dataset.id)
        facts.create_run("run_e", "evaluate", {})
        context = JobContext("run_e", home, store, facts)
        config = EvaluateConfig(model="again", dataset="text", device="cpu")
        assert evaluate(context, config)["bits_per_byte"] > 0


def test_datasets_can_be_built_with_an_imported_tokenizer(
    exchange: Exchange, home: Home, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    exchange.export("tiny", "hf", tmp_path / "hf")
    assert exchange.import_model(str(tmp_path / "hf"), "again")["tokenizer"] == "again@1"
    with Ledger(home.ledger) as facts:
        version = facts.resolve("tokenizer", parse_ref("again"))
    manifest = Store(home.store).load(version.manifest_id)
    assert manifest.tokenizer_fingerprint == tokenizer.fingerprint
    assert manifest.counts == {"vocab_size": 320}
    parents = exchange.show("again")["parents"]
    assert parents == {"tokenizer": {"id": manifest.id, "refs": ["again@1"]}}


def test_gguf_is_one_file(exchange: Exchange, tmp_path: Path) -> None:
    result = exchange.export("tiny", "gguf", tmp_path / "tiny.gguf", quant="q8_0")
    assert (tmp_path / "tiny.gguf").read_bytes()[:4] == b"GGUF"
    assert result["size_bytes"] == (tmp_path / "tiny.gguf").stat().st_size
    exchange.export("tiny", "gguf", tmp_path / "f16.gguf")
    assert (tmp_path / "f16.gguf").stat().st_size > result["size_bytes"]


def test_show_tells_shape_files_lineage_and_aliases(
    exchange: Exchange, home: Home, tmp_path: Path
) -> None:
    shown = exchange.show("tiny")
    assert shown["model"] == "tiny@1"
    assert shown["aliases"] == ["live"]
    assert shown["shape"]["qk_norm"] is False
    assert shown["counts"]["parameters"] > 0
    assert set(shown["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert shown["imported_from"] is None
    exchange.export("tiny", "hf", tmp_path / "hf")
    exchange.import_model(str(tmp_path / "hf"), "again")
    again = exchange.show("again@1")
    assert again["imported_from"]["kind"] == "folder"
    assert str(tmp_path) not in json.dumps(again)
    json.dumps(shown)


def test_parents_are_named_by_every_name_that_they_have(exchange: Exchange, home: Home) -> None:
    store = Store(home.store)
    dataset = tiny_dataset(store)
    child = store.load(exchange.show("tiny")["model_id"]).model_copy(
        update={"parents": {"dataset": dataset.id, "run": "run_1"}}
    )
    store.save(child)
    with Ledger(home.ledger) as ledger:
        for name in ("text", "copy"):
            ledger.publish("dataset", name, dataset.id)
        ledger.publish("model", "child", child.id)
    shown = exchange.show("child")
    assert shown["parents"] == {
        "dataset": {"id": dataset.id, "refs": ["text@1", "copy@1"]},
        "run": {"id": "run_1", "refs": []},
    }
    assert f"made from  dataset text@1 = copy@1  {dataset.id}" in described(shown)
    assert "made from  run run_1" in described(shown)


def test_another_chat_template_travels(exchange: Exchange, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    exchange.export("tiny", "hf", tmp_path / "hf", template=mine)
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == mine.read_text()
    assert exchange.import_model(str(tmp_path / "hf"), "again")["chat_template"] == "other"


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"to": "onnx"}, UnknownNameError, "hf, gguf"),
        ({"to": "gguf", "quant": "q5_0"}, UnknownNameError, "q4_0"),
        ({"dtype": "bf61"}, UnknownNameError, "bf16"),
        ({"quant": "q8_0"}, ConfigError, "--dtype"),
        ({"to": "gguf", "dtype": "bf16"}, ConfigError, "--quant"),
        ({"model": "tny"}, NotFoundError, "tiny"),
        ({"template": "broken.jinja"}, DataError, "messages"),
        ({"template": "absent.jinja"}, NotFoundError, "path"),
        ({"out": "broken.jinja"}, ConflictError, "another path"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    exchange: Exchange, tmp_path: Path, changes: dict[str, Any], kind: type[MulmError], told: str
) -> None:
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}")
    values = {"model": "tiny", "to": "hf", "out": "out", **changes}
    for name in {"out", "template"} & values.keys():
        values[name] = tmp_path / values[name]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind) as error:
        exchange.export(values.pop("model"), values.pop("to"), values.pop("out"), **values)
    assert told in error.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_rounded_weights_are_not_exported(
    exchange: Exchange, home: Home, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = Store(home.store)
    rounded = QuantizedMicroLM.of(tiny_model(1), Quantization(linear="int8", embedding="int8"))
    made = store_model(
        store, rounded, tokenizer.to_bytes(), tokenizer.fingerprint, config={}, parents={}
    )
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "rounded", made.id)
    for to in ("hf", "gguf"):
        with pytest.raises(ConflictError, match="rounded@1 is quantised"):
            exchange.export("rounded", to, tmp_path / to, template=tmp_path / "absent.jinja")
    assert list(tmp_path.glob("*gguf*")) == []


def test_numbers_that_are_none_do_not_come_in(
    exchange: Exchange, home: Home, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    broken = tiny_model(1, TINY.model_copy(update={"vocab_size": tokenizer.vocab_size}))
    with torch.no_grad():
        broken.norm.weight[3] = float("nan")
    made = store_model(
        Store(home.store), broken, tokenizer.to_bytes(), tokenizer.fingerprint, config={},
        parents={},
    )  # fmt: skip
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "broken", made.id)
    exchange.export("broken", "hf", tmp_path / "folder")
    with pytest.raises(DataError, match=r"not finite, in 'norm\.weight'"):
        exchange.import_model(str(tmp_path / "folder"), "again")
    with Ledger(home.ledger) as ledger:
        assert ledger.versions("model", "again") == []


def test_a_tampered_model_is_not_exported(exchange: Exchange, home: Home, tmp_path: Path) -> None:
    store = Store(home.store)
    manifest = store.load(exchange.show("tiny")["model_id"])
    path = store.path(manifest.blob("model.safetensors"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(CorruptError):
        exchange.export("tiny", "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("name", ["below/out", "x" * 250, "x" * 300])
def test_a_path_that_cannot_be_written_is_named(
    exchange: Exchange, tmp_path: Path, to: str, name: str
) -> None:
    (tmp_path / "below").write_bytes(b"a file")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=name):
        exchange.export("tiny", to, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_parent_does_not_stop_an_export(
    exchange: Exchange, home: Home, tmp_path: Path
) -> None:
    store = Store(home.store)
    dataset = tiny_dataset(store)
    child = store.load(exchange.show("tiny")["model_id"]).model_copy(
        update={"parents": {"dataset": dataset.id}}
    )
    store.save(child)
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "child", child.id)
    path = home.store / "manifests" / f"{dataset.id}.json"
    path.chmod(0o644)
    path.write_bytes(b"{}")
    exchange.export("child", "hf", tmp_path / "hf")
    assert dataset.id in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(
    "source", ["nowhere", "./no/where", "/no/where", "~nobody-of-that-name/x", "own/er@"]
)
def test_a_source_that_is_nothing(exchange: Exchange, source: str) -> None:
    with pytest.raises(NotFoundError, match="neither a folder"):
        exchange.import_model(source, "x")


def test_a_folder_that_may_not_be_read_is_named(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(ConfigError, match=f"{tmp_path}.*Permission denied"):
        exchange.import_model(str(tmp_path), "x")


# From a hub


class HubOfOneFolder(SimpleHTTPRequestHandler):
    """`own/er` at commit `abc` is a folder of this machine."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/own/er/revision/"):
            body = json.dumps(listing(Path(self.directory))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.path = self.path.replace("/own/er/resolve/abc/", "/")
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def listing(folder: Path) -> dict[str, Any]:
    from mulm.checksum import hash_file

    files = [
        {"rfilename": path.name, "size": path.stat().st_size, "lfs": {"sha256": hash_file(path)}}
        for path in folder.iterdir()
    ]
    return {"sha": "abc", "siblings": files}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that stands behind it."""
    handler = partial(HubOfOneFolder, directory=str(tmp_path / "hf"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path / "hf"
        server.shutdown()
        thread.join()


def test_a_model_from_a_hub(exchange: Exchange, home: Home, hub: tuple[str, Path]) -> None:
    url, folder = hub
    exchange.export("tiny", "hf", folder)
    out = io.StringIO()
    with Exchange(home, Progress(out), {"HF_ENDPOINT": url}) as online:
        imported = online.import_model("own/er@v1", "fetched")
        assert imported["model"] == "fetched@1"
        assert online.show("fetched")["imported_from"] | {"weights_sha256": 0} == {
            "kind": "hub", "repository": "own/er", "commit": "abc", "weights_sha256": 0,
        }  # fmt: skip
    assert "own/er at abc" in out.getvalue()
    assert (home.hub / "own--er" / "abc" / "model.safetensors").is_file()


def test_a_foreign_architecture_is_refused_before_its_weights_are_fetched(
    exchange: Exchange, home: Home, hub: tuple[str, Path]
) -> None:
    url, folder = hub
    exchange.export("tiny", "hf", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MambaModel"]}))
    with (
        Exchange(home, Progress(io.StringIO()), {"HF_ENDPOINT": url}) as online,
        pytest.raises(DataError) as error,
    ):
        online.import_model("own/er", "fetched")
    assert "LlamaForCausalLM" in error.value.hint
    assert not list(home.hub.glob("**/model.safetensors*"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with (
        Exchange(home, Progress(io.StringIO()), {"HF_ENDPOINT": url}) as online,
        pytest.raises(DataError, match="pickle"),
    ):
        online.import_model("own/er", "fetched")
