"""A model as a GGUF file, which llama.cpp and its kin run: the one adapter to their names.

Called by `jobs.export`. Invariants: the file has its name when it is whole; tokens, merges and
chat template are those that we serve with; what their program would compute otherwise than ours
is refused, never written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from mulm.atomic import atomic_file, require_absent
from mulm.chat import exported_template
from mulm.data.foreign_tokenizer import split_patterns
from mulm.data.tokenizer import SPLIT_PATTERN, Tokenizer
from mulm.errors import DataError
from mulm.model.config import MicroLMConfig
from mulm.model.gguf import GGUFTensor, Value, gguf_stream
from mulm.model.gguf_blocks import F16, F32, Q4_0, Q8_0, BlockType
from mulm.model.layers import rotary_factors
from mulm.model.model_files import ModelFiles

# Their name of a way to cut text, by our patterns. What is not here would give other ids there.
_PRE_TOKENIZERS: dict[tuple[str, ...], str] = {
    (SPLIT_PATTERN,): "smaug-bpe",
    (SPLIT_PATTERN.replace("{1,3}", ""),): "qwen2",
    ("gpt-2",): "gpt-2",
    ("digits", "gpt-2"): "smollm",
}
_WHOLE_WORDS_FIRST = {"smaug-bpe": "llama-bpe"}
"""The same with `ignore_merges`: a word that is a token is not built from its parts."""

_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.out": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
_OUTER_NAMES = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "unembedding.weight": "output.weight",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_gguf(
    out: Path,
    files: ModelFiles,
    kind: BlockType,
    *,
    name: str,
    licence: str = "",
    template: str | None = None,
) -> None:
    """Write a model as one file.

    Matrices are packed as `kind`; norms stay fp32. With q4_0 the embeddings are q8_0, and a matrix
    whose rows are no whole blocks is f16.

    Raises:
        ConflictError: `out` exists.
        DataError: the tokenizer or the shape has no equal in llama.cpp, or a number does not fit.
        NoSpaceError: the disk is full; nothing is left behind.
    """
    require_absent(out)
    template = exported_template(files.tokenizer) if template is None else template
    metadata = gguf_metadata(files, kind, name, licence, template)
    tensors = list(_tensors(files, kind))
    with atomic_file(out) as file:
        for piece in gguf_stream(metadata, tensors):
            file.write(piece)
        require_absent(out)


def gguf_metadata(
    files: ModelFiles, kind: BlockType, name: str, licence: str, template: str
) -> dict[str, Value]:
    """All named values of the file."""
    architecture = _architecture(files.config)
    shape = _shape_values(files.config)
    values: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name,
        **({"general.license": licence} if licence else {}),
        "general.file_type": kind.file_code,
        **({"general.quantization_version": 2} if kind.n_values > 1 else {}),
        **{f"{architecture}.{key}": value for key, value in shape.items()},
        **_tokenizer_values(files.tokenizer, files.config.vocab_size),
        "tokenizer.chat_template": template,
    }
    return values


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """Their name of the way in which a tokenizer cuts text.

    Raises:
        DataError: none of theirs cuts alike.
    """
    values = json.loads(tokenizer.to_bytes())
    try:
        name = _PRE_TOKENIZERS[tuple(split_patterns(values))]
    except (KeyError, DataError) as error:
        raise DataError(
            f"llama.cpp has no equal of the tokenizer's way to cut text: {error}",
            hint=f"what works: the patterns that it calls {', '.join(_PRE_TOKENIZERS.values())};"
            " `--to hf` works with any",
        ) from None
    if values["model"].get("ignore_merges"):
        return _WHOLE_WORDS_FIRST.get(name, name)
    return name


def _architecture(config: MicroLMConfig) -> str:
    scaling = config.rope_scaling
    if config.qk_norm and scaling and scaling.kind == "llama3":
        raise DataError(
            "llama.cpp has no rope scaling 'llama3' for models with qk_norm",
            hint="`--to hf` keeps it",
        )
    if scaling and scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != (32, 1):
        raise DataError(
            f"llama.cpp blends yarn from beta_fast 32 to beta_slow 1, not from"
            f" {scaling.beta_fast:g} to {scaling.beta_slow:g}",
            hint="`--to hf` keeps them",
        )
    return "qwen3" if config.qk_norm else "llama"


def _shape_values(config: MicroLMConfig) -> dict[str, Value]:
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "attention.value_length": config.d_head,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.d_head,
        "rope.freq_base": config.rope_theta,
        **_rope_values(config),
    }


def _rope_values(config: MicroLMConfig) -> dict[str, Value]:
    """Of `llama3` they know nothing but the factors themselves, which are a tensor."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":
        return {}
    values: dict[str, Value] = {
        "rope.scaling.type": scaling.kind,
        "rope.scaling.factor": scaling.factor,
    }
    if scaling.kind == "yarn":
        values["rope.scaling.original_context_length"] = scaling.original_max_seq_len
    return values


def _tokenizer_values(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Value]:
    values = json.loads(tokenizer.to_bytes())
    token_by_id = {token_id: token for token, token_id in values["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in values.get("added_tokens", ())}
    tokens, types = [], []
    for i in range(vocab_size):
        tokens.append(added[i]["content"] if i in added else token_by_id.get(i, f"[PAD{i}]"))
        if i in added:
            types.append(_CONTROL if added[i]["special"] else _USER_DEFINED)
        else:
            types.append(_NORMAL if i in token_by_id else _UNUSED)
    merges = values["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer_name(tokenizer),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.end_of_text_id,
        "tokenizer.ggml.eos_token_id": tokenizer.turn_end_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        # Every text begins a document, as when it is served here.
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def gguf_names(config: MicroLMConfig) -> Mapping[str, str]:
    """Their name of each of our tensors."""
    names = dict(_OUTER_NAMES)
    if config.tie_embeddings:
        del names["unembedding.weight"]
    for layer in range(config.n_layers):
        for ours, theirs in _BLOCK_NAMES.items():
            if config.qk_norm or not ours.endswith(("q_norm", "k_norm")):
                names[f"blocks.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return names


def _tensors(files: ModelFiles, kind: BlockType) -> Iterator[GGUFTensor]:
    if files.config.rope_scaling and files.config.rope_scaling.kind == "llama3":
        yield _rope_factors(files.config)
    for ours, theirs in gguf_names(files.config).items():
        shape = files.tensors.specs[ours].shape
        chosen = _kind_of(ours, shape, kind)
        yield GGUFTensor(theirs, shape, chosen, _reader(files, ours, theirs, chosen))


def _kind_of(name: str, shape: tuple[int, ...], kind: BlockType) -> BlockType:
    if len(shape) == 1:
        return F32
    if kind is Q4_0 and name in _OUTER_NAMES:
        kind = Q8_0  # four bits would cost most where every token passes
    return kind if shape[-1] % kind.n_values == 0 else F16


def _reader(
    files: ModelFiles, ours: str, theirs: str, kind: BlockType
) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        tensor = files.tensors.read(ours)
        if not files.config.qk_norm and ours.endswith(("attention.q.weight", "attention.k.weight")):
            tensor = interleaved(tensor, files.config.d_head)
        return kind.encode(tensor, theirs)

    return read


def interleaved(weight_OD: Tensor, d_head: int) -> Tensor:
    """Rows of a query or key matrix in the order that their `llama` turns: 0, H/2, 1, H/2 + 1 ...

    Their `qwen3` turns half-split heads as we do and needs none of it.
    """
    return weight_OD.view(-1, 2, d_head // 2, weight_OD.shape[1]).transpose(1, 2).flatten(0, 2)


def _rope_factors(config: MicroLMConfig) -> GGUFTensor:
    factors = rotary_factors(config)
    name = "rope_freqs.weight"
    return GGUFTensor(name, tuple(factors.shape), F32, lambda: F32.encode(factors, name))
