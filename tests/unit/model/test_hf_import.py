"""Folders that are damaged or foreign are refused by name, before anything is stored."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.errors import ConfigError, CorruptError, DataError, MulmError, NotFoundError
from mulm.model.hf_import import describe_hf_folder, open_hf_weights, require_files
from mulm.model.model_files import ModelFiles, store_model_files
from mulm.model.weights import read_tensors, tensors_to_bytes
from mulm.store import Store

DEEP = b'{"a":' + b"[" * 100_000
LATIN = b'{"weight_map": {"a": "\xc3\xa9.safetensors"}}'
LONG = b'{"weight_map": {"a": "' + b"x" * 5000 + b'.safetensors"}}'


def read_back(folder: Path) -> ModelFiles:
    require_files({path.name for path in folder.iterdir()}, "here")
    return open_hf_weights(folder, describe_hf_folder(folder))


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def deep_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_bytes(DEEP)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / name).read_bytes())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return edit


def edit_config(**changes: Any) -> Callable[[Path], None]:
    return edit_json("config.json", lambda values: values.update(changes))


def unnamed_turns(values: dict[str, Any]) -> None:
    for token in values["added_tokens"]:
        token["special"] = token["content"] != "<|im_end|>"


def one_more(values: dict[str, Any]) -> None:
    last = values["added_tokens"][-1]
    values["added_tokens"].append(last | {"id": 320, "content": "<|one_more|>"})


@pytest.mark.parametrize(
    ("damage", "kind", "told"),
    [
        (cut, CorruptError, "model.safetensors"),
        (replace("model.safetensors", b"not weights"), CorruptError, "model.safetensors"),
        (replace("config.json", b"{"), CorruptError, "config.json"),
        (replace("config.json", DEEP), CorruptError, "config.json"),
        (replace("tokenizer.json", DEEP), CorruptError, "tokenizer.json"),
        (deep_template, CorruptError, "tokenizer_config.json"),
        (replace("model.safetensors.index.json", DEEP), CorruptError, "index.json"),
        (replace("tokenizer.json", b"[]"), CorruptError, "tokenizer.json"),
        (pickled, DataError, "pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), NotFoundError, "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), NotFoundError, "model.safetensors"),
        (edit_config(num_hidden_layers=3), CorruptError, "layers.2"),
        (edit_config(num_hidden_layers=1), DataError, "layers.1"),
        (edit_config(num_hidden_layers=10_000_000), CorruptError, "10000000 layers"),
        (edit_config(intermediate_size=65), CorruptError, "'model.layers.0.mlp.down_proj.weight'"),
        (edit_config(vocab_size=300), CorruptError, "'model.embed_tokens.weight' is (320, 32)"),
        (edit_json("tokenizer.json", one_more), CorruptError, "tokenizer of hf does not fit"),
        (
            replace("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}'),
            CorruptError, "names no files",
        ),
        (replace("model.safetensors.index.json", LATIN), CorruptError, "names no files"),
        (replace("model.safetensors.index.json", LONG), CorruptError, "names no files"),
        (
            replace("model.safetensors.index.json", b'{"weight_map": {"a": "x.safetensors"}}'),
            NotFoundError, "x.safetensors",
        ),
        (edit_json("tokenizer.json", lambda v: v["model"].update(type="Foo")), DataError, "Foo"),
        (edit_json("tokenizer.json", lambda v: v.update(pre_tokenizer=None)), DataError, "bytes"),
        (
            edit_json("tokenizer.json", lambda v: v.update(normalizer={"type": "Lowercase"})),
            DataError, "Lowercase",
        ),
        (edit_json("tokenizer.json", unnamed_turns), DataError, "im_end"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_folders_are_refused(
    folder: Path, damage: Callable[[Path], None], kind: type[MulmError], told: str
) -> None:
    damage(folder)
    with pytest.raises(kind) as error:
        read_back(folder)
    assert told in error.value.message
    assert error.value.hint


def test_repeated_tensors_are_left_out(folder: Path, tmp_path: Path, store: Store) -> None:
    """Older writers keep the tied output and the rotary frequencies as tensors of their own."""
    weights = read_tensors((folder / "model.safetensors").read_bytes())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").write_bytes(tensors_to_bytes(weights))
    with open_hf_weights(tmp_path / "old", describe_hf_folder(tmp_path / "old")) as files:
        assert store_model_files(store, files, config={}).counts["parameters"] > 0


def test_quantised_weights_do_not_come_in(folder: Path, tmp_path: Path, store: Store) -> None:
    """Without their scales they would fit by name and shape, and mean nothing."""
    weights = read_tensors((folder / "model.safetensors").read_bytes())
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = (weights[name] * 100).to(torch.int8)
    shutil.copytree(folder, tmp_path / "rounded")
    (tmp_path / "rounded" / "model.safetensors").write_bytes(tensors_to_bytes(weights))
    described = describe_hf_folder(tmp_path / "rounded")
    with (
        open_hf_weights(tmp_path / "rounded", described) as files,
        pytest.raises(DataError, match=r"'blocks\.0\.mlp\.up\.weight' are whole numbers"),
    ):
        store_model_files(store, files, config={})


def test_a_file_that_may_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(ConfigError, match=r"config\.json.*Permission denied"):
        describe_hf_folder(folder)
