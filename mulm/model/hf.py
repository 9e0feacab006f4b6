"""Hugging Face's names: the one adapter between their `config.json` and tensors, and ours.

Used by `hf_folder` to write them and by `hf_import` to read them. Pure. Invariant: a shape that was
exported and is read back is the same shape; what we cannot compute exactly is refused by name,
never approximated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from mulm.config import parse_config
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, DataError
from mulm.model.config import MicroLMConfig

ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

_BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
_QK_NORM_NAMES = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}

_COUNTS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
}
_OTHERS = {
    "n_kv_heads": "num_key_value_heads",
    "d_head": "head_dim",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
_ROPE_FIELDS: dict[str, dict[str, str]] = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_seq_len": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "original_max_seq_len": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
    },
}

_NAMES = {**_COUNTS, **_OTHERS}
_KINDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("architectures", list, "a list of names"),
    ("layer_types", list, "a list of names"),
    *(
        (name, int, "a whole number")
        for name in (*_COUNTS.values(), "num_key_value_heads", "head_dim")
    ),
    ("rms_norm_eps", (int, float), "a number"),
    ("rope_theta", (int, float), "a number"),
    ("rope_scaling", dict, "an object or null"),
    ("rope_parameters", dict, "an object or null"),
)
"""What a value must be, where it stands."""

_LARGEST = 1 << 24
"""Of one side of a tensor: no product of two is beyond what the backend can count."""

# What changes the mathematics of a block, and the only values with which it is ours.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
_ONLY_ROPE: dict[str, tuple[Any, ...]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "truncate": (True, None),
    "partial_rotary_factor": (1.0, None),
}
_ROPE_NAMES = ("rope_type", "type", "rope_theta", "original_max_position_embeddings", *_ONLY_ROPE)
"""What may stand beside the fields of any kind."""


def tensor_names(config: MicroLMConfig) -> dict[str, str]:
    """Their name of each of our tensors."""
    inside = _BLOCK_NAMES | (_QK_NORM_NAMES if config.qk_norm else {})
    names = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    if not config.tie_embeddings:
        names["unembedding.weight"] = "lm_head.weight"
    for layer in range(config.n_layers):
        for ours, theirs in inside.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def is_derived(name: str, config: MicroLMConfig) -> bool:
    """Whether their tensor repeats what another one or the config says."""
    is_tied_output = config.tie_embeddings and name == "lm_head.weight"
    return is_tied_output or name.endswith("rotary_emb.inv_freq")


def to_hf_config(config: MicroLMConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    """Their `config.json` of a model of ours.

    Raises:
        ConfigError: the shape has no name of theirs.
    """
    if not config.qk_norm and config.d_model % config.n_heads:
        raise ConfigError(
            f"d_model {config.d_model} is no multiple of n_heads {config.n_heads}, which"
            " LlamaForCausalLM asks for",
            hint="a model with qk_norm: true is exported as Qwen3ForCausalLM, which does not",
        )
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        **{theirs: getattr(config, ours) for ours, theirs in _COUNTS.items()},
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _to_rope_scaling(config),
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": DTYPE_NAMES[dtype],
        **token_ids(tokenizer),
        **({"use_sliding_window": False, "sliding_window": None} if config.qk_norm else {}),
        **({} if config.qk_norm else {"mlp_bias": False}),
    }


def token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids that begin, end and fill a text: a turn ends with the first of those."""
    return {
        "bos_token_id": tokenizer.end_of_text_id,
        "eos_token_id": list(tokenizer.stop_ids),
        "pad_token_id": tokenizer.pad_id,
    }


def from_hf_config(values: Mapping[str, Any]) -> MicroLMConfig:
    """Our shape of a model of theirs.

    Raises:
        DataError: an architecture, a rope scaling or a variant that we do not compute; the hint
            lists what works.
        ConfigError: a value is missing or impossible.
    """
    _require_kinds(values)
    try:
        config = parse_config(MicroLMConfig, _our_values(values))
    except (TypeError, AttributeError, ArithmeticError, IndexError) as error:
        raise _impossible(f"an impossible value: {error}") from None
    except ConfigError as error:
        raise _impossible(_in_their_words(error.message)) from None
    if config.n_heads * config.d_head > _LARGEST:
        raise _impossible("num_attention_heads times head_dim is too large")
    return config


def _require_kinds(values: Mapping[str, Any]) -> None:
    """Before anything is computed with them."""
    for name, kind, words in _KINDS:
        value = values.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _impossible(f"{name}: must be {words} (given: {value!r})")
    for name in _NAMES.values():
        if type(size := values.get(name)) is int and not 1 <= size <= _LARGEST:
            raise _impossible(f"{name}: must be between 1 and {_LARGEST} (given: {size})")


def _impossible(told: str) -> ConfigError:
    hint = "fetch the model again, or correct the value"
    return ConfigError(f"config.json: {told}", hint=hint)


def _in_their_words(message: str) -> str:
    """What is wrong with our shape, by the names that stand in their file."""
    renamed = _NAMES | {
        ours: theirs for kind in _ROPE_FIELDS.values() for ours, theirs in kind.items()
    }
    words = re.sub(r"[a-z_]+", lambda found: renamed.get(found[0], found[0]), message)
    return re.sub(rf"\brope_scaling\.({'|'.join(_ROPE_FIELDS)})\b", "rope_scaling", words)


def _our_values(values: Mapping[str, Any]) -> dict[str, Any]:
    has_qk_norm = _architecture(values) == "Qwen3ForCausalLM"
    _refuse_variants(values)
    missing = [name for name in _COUNTS.values() if values.get(name) is None]
    if missing:
        raise ConfigError(f"{missing[0]}: is missing")
    n_heads = values["num_attention_heads"]
    d_head = values.get("head_dim") or (
        128 if has_qk_norm else values["hidden_size"] // max(1, n_heads)
    )
    rope = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    thetas = rope.get("rope_theta"), values.get("rope_theta")
    return {
        **{ours: values[theirs] for ours, theirs in _COUNTS.items()},
        "n_kv_heads": values.get("num_key_value_heads") or n_heads,
        "d_head": d_head,
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "rope_theta": next((theta for theta in thetas if theta is not None), 10_000.0),
        "rope_scaling": _from_rope_scaling(rope, values["max_position_embeddings"]),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "qk_norm": has_qk_norm,
    }


def _architecture(values: Mapping[str, Any]) -> str:
    named = values.get("architectures") or [values.get("model_type", "nothing")]
    if named[0] not in ARCHITECTURES:
        raise DataError(
            f"the architecture {named[0]!r} is not one that µLM computes",
            hint=f"what works: {', '.join(ARCHITECTURES)}",
        )
    return str(named[0])


def _refuse_variants(values: Mapping[str, Any]) -> None:
    _refuse(values, _ONLY, "the model")
    kinds = set(values.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise DataError(
            f"the model has layers of type {min(kinds)!r}, which µLM does not compute",
            hint="what works: 'full_attention'",
        )


def _refuse(values: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], what: str) -> None:
    for name, allowed in only.items():
        if values.get(name) not in allowed:
            raise DataError(
                f"{what} has {name}: {values[name]!r}, which µLM does not compute",
                hint=f"what works: {name}: {allowed[0]!r}",
            )


def _to_rope_scaling(config: MicroLMConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    fields = _ROPE_FIELDS[scaling.kind]
    theirs = {theirs: getattr(scaling, ours) for ours, theirs in fields.items()}
    return {"rope_type": scaling.kind, **theirs}


def _from_rope_scaling(rope: Mapping[str, Any], max_seq_len: int) -> dict[str, Any] | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise DataError(
            f"the rope scaling {kind!r} is not one that µLM computes",
            hint=f"what works: {', '.join(ROPE_TYPES)}",
        )
    fields = _ROPE_FIELDS.get(kind, {})
    known = (*_ROPE_NAMES, *fields.values())
    _refuse(rope, _ONLY_ROPE, f"the rope scaling {kind!r}")
    unknown = [name for name, value in rope.items() if value is not None and name not in known]
    if unknown:
        raise DataError(
            f"the rope scaling {kind!r} has {unknown[0]!r}, which µLM does not compute",
            hint=f"what works: {', '.join(known)}",
        )
    if kind == "default":
        return None
    given = {ours: rope[theirs] for ours, theirs in fields.items() if rope.get(theirs) is not None}
    if "original_max_seq_len" in fields:
        given.setdefault("original_max_seq_len", max_seq_len)
    return {"kind": kind, **given}
