"""A shape under Hugging Face's names: what we compute is read, what we do not is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, DataError
from mulm.model.config import YarnRope
from mulm.model.hf import from_hf_config, to_hf_config
from mulm.testing import TINY


def test_a_llama_whose_width_its_heads_do_not_divide_is_refused(tokenizer: Tokenizer) -> None:
    config = TINY.model_copy(update={"qk_norm": False, "n_heads": 6})
    with pytest.raises(ConfigError, match="n_heads"):
        to_hf_config(config, tokenizer, torch.float32)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "LlamaForCausalLM, Qwen3ForCausalLM"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "default, linear, llama3, yarn",
        ),
        ({"rope_parameters": {"rope_type": "longrope"}}, "default, linear, llama3, yarn"),
        ({"rope_scaling": YARN | {"mscale": 0.7}}, "mscale: None"),
        ({"rope_scaling": YARN | {"attention_factor": 2.0}}, "attention_factor: None"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncate: True"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: 1.0"),
        ({"rope_parameters": {"full_attention": YARN}}, "rope_type"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_type"),
        ({"rope_scaling": YARN | {"extrapolation_factor": 2.0}}, "beta_slow"),
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
    ("changes", "told"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads: "),
        ({"num_attention_heads": "4"}, "num_attention_heads: must be a whole number (given: '4')"),
        ({"num_attention_heads": True}, "num_attention_heads: must be a whole number"),
        ({"num_key_value_heads": 3}, "num_attention_heads (4) must be a multiple of num_key_value"),
        ({"hidden_size": None}, "hidden_size: is missing"),
        ({"hidden_size": 0}, "hidden_size: "),
        ({"head_dim": 9}, "head_dim: "),
        ({"head_dim": 0}, "head_dim: must be between 1"),
        ({"num_key_value_heads": 0}, "num_key_value_heads: must be between 1"),
        ({"rope_theta": 0}, "rope_theta: "),
        ({"rope_parameters": {"rope_theta": 0}, "rope_theta": 1e4}, "rope_theta: "),
        ({"rope_scaling": [1]}, "rope_scaling: must be an object"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_scaling.factor: "),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 0}},
            "rope_scaling.original_max_position_embeddings: ",
        ),
        ({"rope_scaling": YARN | {"beta_fast": 0.5}}, "rope_scaling: beta_slow must be smaller"),
        ({"architectures": 5}, "architectures: must be a list"),
        ({"layer_types": 5}, "layer_types: must be a list"),
        ({"vocab_size": -1}, "vocab_size: "),
        ({"vocab_size": 1 << 62}, "vocab_size: must be between"),
        ({"intermediate_size": 10**30}, "intermediate_size: must be between"),
        ({"max_position_embeddings": 1 << 62}, "max_position_embeddings: must be between"),
        ({"head_dim": 1 << 23}, "num_attention_heads times head_dim"),
        ({"rope_theta": float("nan")}, "rope_theta: "),
        ({"rms_norm_eps": -1}, "rms_norm_eps: "),
        ({"tie_word_embeddings": "perhaps"}, "tie_word_embeddings: "),
    ],
)
def test_impossible_values_are_told_by_the_names_in_the_file(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        from_hf_config(CONFIG | changes)
    assert error.value.message.startswith(f"config.json: {told}")
    assert error.value.hint
    assert not re.search(
        r"\b(n_heads|d_model|d_ff|n_layers|max_seq_len|d_head)\b", error.value.message
    )


def test_yarn_is_read_as_it_is_published_and_written_again(tokenizer: Tokenizer) -> None:
    config = from_hf_config(CONFIG | {"rope_scaling": YARN})
    assert config.rope_scaling == YarnRope(factor=4, original_max_seq_len=16)
    written = to_hf_config(config, tokenizer, torch.float32)
    assert written["rope_scaling"] == YARN | {"beta_fast": 32, "beta_slow": 1}
    assert from_hf_config(written) == config


def test_defaults_are_the_published_ones() -> None:
    llama = from_hf_config(CONFIG)
    assert (llama.n_kv_heads, llama.d_head, llama.rope_theta, llama.qk_norm) == (4, 8, 1e4, False)
    assert not llama.tie_embeddings
    assert from_hf_config(CONFIG | {"architectures": ["Qwen3ForCausalLM"]}).d_head == 128
