"""GGUF files, read back by llama.cpp's own Python reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mulm.chat import exported_template, render
from mulm.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from mulm.errors import ConflictError, DataError, MulmError
from mulm.model.chat_template import SAMPLE, encode_with_special
from mulm.model.gguf import ALIGNMENT_BYTES
from mulm.model.gguf_blocks import BLOCK_TYPES, F16, F32, Q4_0, Q8_0
from mulm.model.gguf_model import gguf_names, interleaved, pre_tokenizer_name, write_gguf
from mulm.model.jinja_child import answer
from mulm.model.model_files import ModelFiles, open_model_files
from mulm.store import Store
from mulm.testing import tiny_llama3_tokenizer, tiny_stored_model

gguf = pytest.importorskip("gguf", reason="gguf, the independent reader, is not installed")
np = pytest.importorskip("numpy")

LLAMA3 = {
    "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_seq_len": 32,
}  # fmt: skip


def opened(store: Store, tokenizer: Tokenizer, **changes: Any) -> ModelFiles:
    return open_model_files(store, tiny_stored_model(store, tokenizer, **changes))


def written(path: Path, files: ModelFiles, kind: str = "f16") -> tuple[dict[str, Any], Any]:
    """Values by key, tensors by name, as the independent reader sees them."""
    write_gguf(path, files, BLOCK_TYPES[kind], name="tiny", licence="cc0-1.0")
    reader = gguf.GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items()}
    return values, {tensor.name: tensor for tensor in reader.tensors}


def numbers(tensor: Any) -> Tensor:
    flat = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(flat)).view(*reversed([int(n) for n in tensor.shape]))


def test_values_are_read_back(store: Store, tokenizer: Tokenizer, tmp_path: Path) -> None:
    values, tensors = written(tmp_path / "m.gguf", opened(store, tokenizer))
    expected = {
        "GGUF.version": 3,
        "GGUF.tensor_count": len(tensors),
        "general.architecture": "qwen3",
        "general.name": "tiny",
        "general.license": "cc0-1.0",
        "general.file_type": 1,
        "qwen3.vocab_size": 320,
        "qwen3.context_length": 64,
        "qwen3.embedding_length": 32,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 64,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 8,
        "qwen3.attention.value_length": 8,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "qwen3.rope.freq_base": 10_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": exported_template(tokenizer),
    }
    assert {key: values[key] for key in expected} == expected
    assert "qwen3.rope.scaling.type" not in values
    own = json.loads(tokenizer.to_bytes())["model"]
    tokens = values["tokenizer.ggml.tokens"]
    assert tokens[:32] == list(SPECIAL_TOKENS)
    assert {t: i for i, t in enumerate(tokens) if t in own["vocab"]} == own["vocab"]
    assert values["tokenizer.ggml.token_type"] == [3] * 32 + [1] * 288
    assert values["tokenizer.ggml.merges"] == [" ".join(pair) for pair in own["merges"]]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_tensors_are_read_back(
    store: Store, tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    files = opened(store, tokenizer, tie_embeddings=False, d_ff=48)
    values, tensors = written(tmp_path / "m.gguf", files, kind)
    names = gguf_names(files.config)
    assert set(tensors) == set(names.values())
    assert (
        values["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}[kind]
    )
    for ours, theirs in names.items():
        original, found = files.tensors.read(ours), tensors[theirs]
        read, used = numbers(found), found.tensor_type.name.lower()
        assert found.data_offset % ALIGNMENT_BYTES == 0
        if original.ndim == 1:
            assert used == "f32"
        elif original.shape[1] % 32:
            assert used == (kind if kind in ("f32", "f16", "bf16") else "f16")
        else:
            is_outer = not ours.startswith("blocks.")
            assert used == ("q8_0" if kind == "q4_0" and is_outer else kind)
        if used in ("f32", "f16", "bf16"):
            dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[used]
            assert torch.equal(read, original.to(dtype).float())
        else:
            step = original.view(-1, 32).abs().amax(1) / {"q8_0": 127, "q4_0": 8}[used]
            worst = (read - original).abs().view(-1, 32).amax(1)
            assert (worst <= step * {"q8_0": 0.6, "q4_0": 1.1}[used]).all()


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "bf16", "f16"])
def test_blocks_are_bit_for_bit_the_reference_ones(kind: str) -> None:
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(5)) * 3
    x[0] = 0
    x[1, :32] = 1e-9
    x[2, :32] = torch.arange(32) - 15.5
    x[3] = x[3].round() / 2
    ours = b"".join(BLOCK_TYPES[kind].encode(x, "x"))
    reference = gguf.quants.quantize(x.numpy(), gguf.GGMLQuantizationType[kind.upper()])
    assert ours == reference.tobytes()
    assert len(ours) == BLOCK_TYPES[kind].size_bytes(x.numel())


@pytest.mark.parametrize("is_llama3", [False, True], ids=["ChatML", "Llama 3"])
def test_conversations_have_our_ids(
    store: Store, tokenizer: Tokenizer, tmp_path: Path, is_llama3: bool
) -> None:
    """By nothing but what stands in the file: its template, its tokens and their types."""
    tokenizer = tiny_llama3_tokenizer() if is_llama3 else tokenizer
    values, _ = written(tmp_path / "m.gguf", opened(store, tokenizer))
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    control = {tokens[i]: i for i, kind in enumerate(types) if kind == 3}
    assert control == tokenizer.special_tokens
    assert values["tokenizer.ggml.eos_token_id"] == tokenizer.turn_end_id
    assert values["tokenizer.ggml.pre"] == ("llama-bpe" if is_llama3 else "smaug-bpe")
    variables = {
        "messages": [message.model_dump() for message in SAMPLE],
        "add_generation_prompt": True,
        "bos_token": tokens[values["tokenizer.ggml.bos_token_id"]],
    }
    text = answer(values["tokenizer.chat_template"], variables)["text"]
    expected = [tokenizer.end_of_text_id, *render(SAMPLE, tokenizer)]
    assert encode_with_special(text, tokenizer) == expected


def test_large_tensors_are_packed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(6))
    whole = list(Q8_0.encode(x, "x"))
    monkeypatch.setattr("mulm.model.gguf_blocks._PIECE_VALUES", 100)
    pieces = list(Q8_0.encode(x, "x"))
    assert (len(whole), len(pieces)) == (1, 14)
    assert b"".join(pieces) == whole[0]


def test_llama_heads_are_interleaved(store: Store, tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = opened(store, tokenizer, qk_norm=False)
    values, tensors = written(tmp_path / "m.gguf", files, "f32")
    assert values["general.architecture"] == "llama"
    for ours, theirs in gguf_names(files.config).items():
        original = files.tensors.read(ours)
        if ours.endswith(("attention.q.weight", "attention.k.weight")):
            heads = original.view(-1, 8, 32)
            original = heads[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(original.shape)
            assert torch.equal(interleaved(files.tensors.read(ours), 8), original)
        assert torch.equal(numbers(tensors[theirs]), original)


def test_rope_scaling(store: Store, tokenizer: Tokenizer, tmp_path: Path) -> None:
    linear = {"kind": "linear", "factor": 4.0}
    values, _ = written(tmp_path / "a.gguf", opened(store, tokenizer, rope_scaling=linear))
    assert (values["qwen3.rope.scaling.type"], values["qwen3.rope.scaling.factor"]) == ("linear", 4)
    yarn = {"kind": "yarn", "factor": 4.0, "original_max_seq_len": 16}
    values, tensors = written(tmp_path / "y.gguf", opened(store, tokenizer, rope_scaling=yarn))
    assert values["qwen3.rope.scaling.type"] == "yarn"
    assert values["qwen3.rope.scaling.factor"] == 4
    assert values["qwen3.rope.scaling.original_context_length"] == 16
    assert "rope_freqs.weight" not in tensors
    with pytest.raises(DataError, match="beta_fast 32"):
        written(tmp_path / "z.gguf", opened(store, tokenizer, rope_scaling=yarn | {"beta_fast": 8}))
    llama = opened(store, tokenizer, rope_scaling=LLAMA3, qk_norm=False, d_head=32)
    _, tensors = written(tmp_path / "b.gguf", llama)
    factors = numbers(tensors["rope_freqs.weight"])
    assert (factors[0], factors[-1], len(factors)) == (1, 8, 16)
    with pytest.raises(DataError, match="llama3"):
        written(tmp_path / "c.gguf", opened(store, tokenizer, rope_scaling=LLAMA3))
    assert not (tmp_path / "c.gguf").exists()


def test_rows_of_a_larger_embedding_are_unused_tokens(
    store: Store, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    values, _ = written(tmp_path / "m.gguf", opened(store, tokenizer, vocab_size=323))
    assert values["tokenizer.ggml.tokens"][320:] == ["[PAD320]", "[PAD321]", "[PAD322]"]
    assert values["tokenizer.ggml.token_type"][320:] == [5, 5, 5]


def changed(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    values = json.loads(tokenizer.to_bytes())
    values["model"].update({k: v for k, v in changes.items() if k == "ignore_merges"})
    values.update({k: v for k, v in changes.items() if k == "pre_tokenizer"})
    return Tokenizer.from_bytes(json.dumps(values).encode())


def test_the_way_to_cut_text_has_a_name_or_is_refused(tokenizer: Tokenizer) -> None:
    assert pre_tokenizer_name(tokenizer) == "smaug-bpe"
    assert pre_tokenizer_name(changed(tokenizer, ignore_merges=True)) == "llama-bpe"
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    assert pre_tokenizer_name(changed(tokenizer, pre_tokenizer=gpt2)) == "gpt-2"
    other = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
    both = {"type": "Sequence", "pretokenizers": [other, gpt2 | {"use_regex": False}]}
    with pytest.raises(DataError) as error:
        pre_tokenizer_name(changed(tokenizer, pre_tokenizer=both))
    assert "qwen2" in error.value.hint


def test_refusals_leave_nothing(store: Store, tokenizer: Tokenizer, tmp_path: Path) -> None:
    files, folder = opened(store, tokenizer), tmp_path / "out"
    folder.mkdir()
    (folder / "m.gguf").write_text("mine")
    with pytest.raises(ConflictError):
        write_gguf(folder / "m.gguf", files, F16, name="x")
    assert (folder / "m.gguf").read_text() == "mine"

    def broken(_name: str) -> Tensor:
        return torch.full((320, 32), 1e9)

    files.tensors.read = broken  # type: ignore[method-assign]
    for kind in (F16, Q8_0, Q4_0):
        with pytest.raises(MulmError, match="range"):
            write_gguf(folder / "n.gguf", files, kind, name="x")
    assert [path.name for path in folder.iterdir()] == ["m.gguf"]
    assert F32.size_bytes(3) == 12
