"""A model leaves and comes back byte for byte; what cannot is refused, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.data.tokenizer import Tokenizer
from mulm.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DataError,
    MulmError,
    NoSpaceError,
    NotFoundError,
)
from mulm.model import hf_folder
from mulm.model.chat_template import judge_template
from mulm.model.hf import from_hf_config, tensor_names, to_hf_config
from mulm.model.hf_folder import write_hf_folder
from mulm.model.hf_import import describe_hf_folder, licences_in, open_hf_weights, require_files
from mulm.model.model_card import model_card
from mulm.model.model_files import CARD, ModelFiles, open_model_files, store_model_files
from mulm.model.safetensors_file import TensorFiles
from mulm.model.stored import load_model
from mulm.model.weights import read_tensors, tensors_to_bytes
from mulm.store import Store
from mulm.testing import TINY, tiny_dataset, tiny_stored_model

LLAMA3 = {
    "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_seq_len": 32,
}  # fmt: skip
VARIANTS: list[tuple[torch.dtype, dict[str, Any]]] = [
    (torch.float32, {}),
    (torch.bfloat16, {"qk_norm": False, "tie_embeddings": False, "n_kv_heads": 1}),
    (torch.bfloat16, {"qk_norm": False, "rope_scaling": LLAMA3}),
    (torch.float16, {"rope_scaling": {"kind": "linear", "factor": 4.0}}),
]


@pytest.fixture
def files(store: Store, tokenizer: Tokenizer) -> ModelFiles:
    return open_model_files(store, tiny_stored_model(store, tokenizer))


@pytest.fixture
def folder(files: ModelFiles, tmp_path: Path) -> Path:
    write_hf_folder(tmp_path / "hf", files, b"---\nlicense: cc0-1.0\n---\n")
    return tmp_path / "hf"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("dtype", "changes"), VARIANTS)
def test_export_import_export_gives_the_same_bytes(
    store: Store, tokenizer: Tokenizer, tmp_path: Path, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    first = tiny_stored_model(store, tokenizer, dtype=dtype, **changes)
    with open_model_files(store, first) as files:
        card = model_card("tiny", first, files.config, {}).encode()
        write_hf_folder(tmp_path / "one", files, card, max_part_bytes=40_000)
    described = describe_hf_folder(tmp_path / "one")
    assert described.licences == ("cc0-1.0",)
    assert described.template == "same"
    with open_hf_weights(tmp_path / "one", described) as files:
        second = store_model_files(store, files, config={}, card=described.card)
    assert second.blob("model.safetensors").sha256 == first.blob("model.safetensors").sha256
    with open_model_files(store, second) as files:
        write_hf_folder(
            tmp_path / "two", files, store.read(second.blob(CARD)), max_part_bytes=40_000
        )
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert "model.safetensors.index.json" in contents(tmp_path / "one")


def test_parts_hold_all_and_none_is_too_large(files: ModelFiles, tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", files, b"", max_part_bytes=20_000)
    parts = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert parts[-1].name == f"model-{len(parts):05d}-of-{len(parts):05d}.safetensors"
    assert max(path.stat().st_size for path in parts[1:]) < 25_000
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_bytes())
    assert set(index["weight_map"]) == set(tensor_names(TINY).values())
    assert index["metadata"]["total_size"] == 4 * TINY.n_parameters + 4 * 256 * TINY.d_model
    with TensorFiles(parts) as tensors:
        assert set(tensors.specs) == set(index["weight_map"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_converted(files: ModelFiles, tmp_path: Path, dtype: torch.dtype) -> None:
    write_hf_folder(tmp_path / "hf", files, b"", dtype=dtype)
    described = describe_hf_folder(tmp_path / "hf")
    with open_hf_weights(tmp_path / "hf", described) as read:
        for name, spec in read.tensors.specs.items():
            assert spec.dtype == dtype
            assert torch.equal(read.tensors.read(name), files.tensors.read(name).to(dtype))


def test_the_card_tells_the_lineage(store: Store, tokenizer: Tokenizer) -> None:
    dataset = tiny_dataset(store)
    model = tiny_stored_model(store, tokenizer).model_copy(
        update={"parents": {"dataset": dataset.id, "run": "run_1"}, "counts": {"tokens": 12345}}
    )
    card = model_card("tiny@1", model, TINY, {"dataset": dataset})
    for told in (model.id, dataset.id, "run_1", "12,345 tokens", "2,000 train tokens", "cc0-1.0"):
        assert told in card


@pytest.mark.parametrize(
    "licences", [(), ("cc0-1.0",), ("public domain (Project Gutenberg)",), ("cc0-1.0", "mit")]
)
def test_licences_are_read_back(
    store: Store, tokenizer: Tokenizer, licences: tuple[str, ...]
) -> None:
    model = tiny_stored_model(store, tokenizer).model_copy(update={"licences": licences})
    expected = (", ".join(licences) or "other",)
    assert licences_in(model_card("tiny@1", model, TINY, {})) == expected
    assert licences_in("# no front matter\nlicense: mit") == ()


# Refusals


def test_a_path_that_exists_is_kept(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(ConflictError, match="exists already"):
        write_hf_folder(tmp_path / "hf", files, b"")
    assert list((tmp_path / "hf").iterdir()) == []


@pytest.mark.parametrize("error", [NoSpaceError("full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(hf_folder, "converted_data", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(type(error)):
        write_hf_folder(tmp_path / "deep" / "hf", files, b"")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "deep").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_weights_beyond_fp16_are_refused(store: Store, files: ModelFiles, tmp_path: Path) -> None:
    model = load_model(store, tiny_stored_model(store, files.tokenizer))
    model.norm.weight.data.fill_(1e6)
    (tmp_path / "w").write_bytes(tensors_to_bytes(model.state_dict()))
    large = ModelFiles(files.config, files.tokenizer, TensorFiles([tmp_path / "w"]))
    with pytest.raises(DataError, match="range"):
        write_hf_folder(tmp_path / "hf", large, b"", dtype=torch.float16)
    assert not (tmp_path / "hf").exists()


def test_a_tampered_store_is_noticed_before_an_export(store: Store, tokenizer: Tokenizer) -> None:
    manifest = tiny_stored_model(store, tokenizer)
    path = store.path(manifest.blob("model.safetensors"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(CorruptError):
        open_model_files(store, manifest)


def test_a_llama_whose_width_its_heads_do_not_divide_is_refused(tokenizer: Tokenizer) -> None:
    config = TINY.model_copy(update={"qk_norm": False, "n_heads": 6})
    with pytest.raises(ConfigError, match="n_heads"):
        to_hf_config(config, tokenizer, torch.float32)


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "LlamaForCausalLM, Qwen3ForCausalLM"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "default, linear, llama3"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "default, linear, llama3"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"attention_bias": True}, "attention_bias: False"),
        ({"use_sliding_window": True}, "False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "full_attention"),
        ({"quantization_config": {"bits": 4}}, "None"),
    ],
)
def test_what_we_do_not_compute_is_refused_with_what_works(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as error:
        from_hf_config(CONFIG | changes)
    assert told in error.value.hint


def test_missing_values_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_size"):
        from_hf_config({k: v for k, v in CONFIG.items() if k != "hidden_size"})
    with pytest.raises(ConfigError, match="factor"):
        from_hf_config(CONFIG | {"rope_scaling": {"type": "linear"}})


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "4"},
        {"hidden_size": None},
        {"rope_scaling": [1]},
        {"architectures": 5},
        {"layer_types": 5},
        {"vocab_size": -1},
        {"rope_theta": float("nan")},
    ],
)
def test_impossible_values_are_one_clear_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_hf_config(CONFIG | changes)


def test_defaults_are_the_published_ones() -> None:
    llama = from_hf_config(CONFIG)
    assert (llama.n_kv_heads, llama.d_head, llama.rope_theta, llama.qk_norm) == (4, 8, 1e4, False)
    assert not llama.tie_embeddings
    assert from_hf_config(CONFIG | {"architectures": ["Qwen3ForCausalLM"]}).d_head == 128


def read_back(folder: Path) -> ModelFiles:
    require_files({path.name for path in folder.iterdir()}, "here")
    return open_hf_weights(folder, describe_hf_folder(folder))


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


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


@pytest.mark.parametrize(
    ("damage", "kind", "told"),
    [
        (cut, CorruptError, "model.safetensors"),
        (replace("model.safetensors", b"not weights"), CorruptError, "model.safetensors"),
        (replace("config.json", b"{"), CorruptError, "config.json"),
        (replace("tokenizer.json", b"[]"), CorruptError, "tokenizer.json"),
        (pickled, DataError, "pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), NotFoundError, "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), NotFoundError, "model.safetensors"),
        (edit_config(num_hidden_layers=3), CorruptError, "layers.2"),
        (edit_config(num_hidden_layers=1), DataError, "layers.1"),
        (edit_config(intermediate_size=65), CorruptError, "mlp"),
        (edit_config(vocab_size=300), CorruptError, "tokenizer of hf does not fit its config"),
        (
            replace("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}'),
            CorruptError, "names no files",
        ),
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
    assert error.value.hint or kind is CorruptError


@pytest.mark.parametrize(
    ("template", "verdict"),
    [
        (None, "none"),
        ("{{ messages[0]['content'] }}", "other"),
        ("{% for", "broken"),
        ("{{ raise_exception('no') }}", "broken"),
        ("{{ messages.__class__.__mro__ }}", "broken"),
        ("{{ 'x' * 9000000000 }}", "broken"),
    ],
)
def test_a_foreign_template_is_judged(folder: Path, template: str | None, verdict: str) -> None:
    (folder / "chat_template.jinja").unlink()
    edit_json("tokenizer_config.json", lambda v: v.update(chat_template=template))(folder)
    assert describe_hf_folder(folder).template == verdict


def test_a_template_that_never_ends_is_ended(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    monkeypatch.setattr("mulm.model.chat_template._TIMEOUT_S", 0.7)
    assert judge_template(loop, tokenizer) == "broken"


def test_repeated_tensors_are_left_out(folder: Path, tmp_path: Path, store: Store) -> None:
    """Older writers keep the tied output and the rotary frequencies as tensors of their own."""
    weights = read_tensors((folder / "model.safetensors").read_bytes())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").write_bytes(tensors_to_bytes(weights))
    with open_hf_weights(tmp_path / "old", describe_hf_folder(tmp_path / "old")) as files:
        assert store_model_files(store, files, config={}).counts["parameters"] > 0
