"""A model goes out as a file and comes in of uploaded files, as runs that anybody can start."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
import torch

from jobs.entry import JobContext
from jobs.model_export import give_out
from jobs.model_import import take_in
from mulm.config import load_config
from mulm.errors import ConfigError, ConflictError, NotFoundError, UnknownNameError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import BlobEntry
from mulm.model.exchange_config import ExportConfig, ImportConfig
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import load_model, store_model
from mulm.refs import new_id, parse_ref
from mulm.runs.identity import IDENTITIES, pinned, run_id_of
from mulm.store import Store
from mulm.testing import tiny_model, tiny_stored_model, tiny_tokenizer

RUN = "run_" + "e" * 12


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "tiny", tiny_stored_model(store, tiny_tokenizer()).id)
        ledger.create_run(RUN, "model_export", {})
        yield JobContext(RUN, home, store, ledger)


def content_of(context: JobContext, file_id: str) -> bytes:
    file = context.facts.file(file_id)
    entry = BlobEntry(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes)
    return context.store.path(entry).read_bytes()


def upload(context: JobContext, name: str, content: bytes) -> str:
    blob = context.store.put(name, content)
    file_id = new_id("file")
    context.facts.add_file(file_id, name, "user_data", blob.size_bytes, blob.sha256)
    return file_id


def exported(context: JobContext, **config: str) -> bytes:
    asked = load_config(ExportConfig, {"model": "tiny@1", **config})
    result = give_out(context, asked)
    assert result["model"] == "tiny@1"
    found = content_of(context, result["file"])
    assert len(found) == result["size_bytes"]
    assert not (context.home.run(RUN) / "export").exists()
    return found


def files_in(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as packed:
        return {
            member.name.partition("/")[2]: packed.extractfile(member).read()  # type: ignore[union-attr]
            for member in packed
        }


def test_what_goes_out_comes_in_again_with_the_very_weights(context):
    files = files_in(exported(context, to="hf"))
    assert {"config.json", "tokenizer.json", "README.md"} <= set(files)
    ids = {name: upload(context, name, content) for name, content in files.items()}
    config = pinned(load_config(ImportConfig, {"name": "again", "files": ids}), context.facts)
    result = take_in(context, config)
    assert (result["model"], result["tokenizer"]) == ("again@1", "again@1")
    before, after = (
        load_model(
            context.store,
            context.store.load(context.facts.resolve("model", parse_ref(ref)).manifest_id),
        )
        for ref in ("tiny@1", "again@1")
    )
    for name, weights in before.state_dict().items():
        assert torch.equal(weights, after.state_dict()[name]), name
    assert not (context.home.run(RUN) / "import").exists()
    assert take_in(context, config)["model"] == "again@1", "the same files are the same version"


def test_doing_it_again_gives_the_same_file(context):
    one = exported(context, to="hf")
    assert exported(context, to="hf") == one
    assert len(context.facts.files()) == 1
    assert exported(context, to="gguf", quant="q8_0")[:4] == b"GGUF"
    assert len(context.facts.files()) == 2


def test_the_same_uploads_are_one_run_whatever_their_ids(context):
    texts = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"x"}

    def run_of(texts):
        ids = {name: upload(context, name, text) for name, text in texts.items()}
        config = pinned(load_config(ImportConfig, {"name": "a", "files": ids}), context.facts)
        identity = IDENTITIES["model_import"](config, context.facts, context.store)
        return run_id_of("model_import", config, identity)

    assert run_of(texts) == run_of(texts)
    assert run_of(texts) != run_of(texts | {"config.json": b"{ }"})


def test_what_cannot_be_written_is_refused(context):
    tokenizer = tiny_tokenizer()
    rounded = QuantizedMicroLM.of(tiny_model(1), Quantization(linear="int8", embedding="int8"))
    small = store_model(
        context.store, rounded, tokenizer.to_bytes(), tokenizer.fingerprint, config={}, parents={}
    )
    context.facts.publish("model", "small", small.id)
    with pytest.raises(ConflictError, match="quantised"):
        give_out(context, load_config(ExportConfig, {"model": "small@1", "to": "hf"}))
    with pytest.raises(NotFoundError):
        give_out(context, load_config(ExportConfig, {"model": "nobody", "to": "hf"}))


def test_a_file_that_is_missing_is_named(context):
    ids = {"config.json": upload(context, "config.json", b"{}")}
    config = pinned(load_config(ImportConfig, {"name": "a", "files": ids}), context.facts)
    with pytest.raises(NotFoundError, match="the uploaded files"):
        take_in(context, config)
    with pytest.raises(NotFoundError, match="file_none"):
        pinned(load_config(ImportConfig, {"name": "a", "files": {"x": "file_none"}}), context.facts)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a"},
        {"name": "A", "hub": "x/y"},
        {"name": "a", "hub": "../x"},
        {"name": "a", "hub": "/etc"},
        {"name": "a", "hub": "x/y", "files": {"config.json": "file_1"}},
        {"name": "a", "files": {"../config.json": "file_1"}},
        {"name": "a", "files": {".hidden": "file_1"}},
        {"name": "a", "files": {"a/b": "file_1"}},
        {"name": "a", "files": {"a\x00b": "file_1"}},
        {"name": "a", "files": {f"f{n}": "file_1" for n in range(300)}},
    ],
)
def test_an_import_names_nothing_of_this_machine(values):
    with pytest.raises(ConfigError):
        load_config(ImportConfig, values)


@pytest.mark.parametrize(
    "values",
    [
        {"model": "tiny", "to": "onnx"},
        {"model": "tiny", "to": "hf", "quant": "q8_0"},
        {"model": "tiny", "to": "gguf", "dtype": "bf16"},
        {"model": "../tiny", "to": "hf"},
        {"model": "tiny", "to": "hf", "out": "/tmp/x"},
    ],
)
def test_an_export_names_nothing_of_this_machine(values):
    with pytest.raises((ConfigError, UnknownNameError)):
        load_config(ExportConfig, values)
