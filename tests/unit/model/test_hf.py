"""A shape under Hugging Face's names: what we compute is read, what we do not is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, DataError
from mulm.model.hf import from_hf_config, to_hf_config
from mulm.testing import TINY


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
        {"vocab_size": 1 << 62},
        {"intermediate_size": 10**30},
        {"max_position_embeddings": 1 << 62},
        {"head_dim": 1 << 23},
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
