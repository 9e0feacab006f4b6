"""transformers loads what we export, and computes and tokenizes as we do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.chat import Message, ToolCall, exported_template, render
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.chat_template import encode_with_special, render_template
from mulm.model.hf_folder import write_hf_folder
from mulm.model.hf_import import describe_hf_folder, open_hf_weights
from mulm.model.jinja_child import answer
from mulm.model.model_files import open_model_files, store_model_files
from mulm.model.stored import load_model
from mulm.store import Store
from mulm.testing import tiny_llama3_tokenizer, tiny_stored_model

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow

LLAMA3 = {
    "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_seq_len": 32,
}  # fmt: skip
YARN = {"kind": "yarn", "factor": 4.0, "original_max_seq_len": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-untied": {"tie_embeddings": False, "n_kv_heads": 4},
    "qwen3-wide-heads": {"d_head": 16, "n_heads": 5, "n_kv_heads": 1},
    "qwen3-linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "llama": {"qk_norm": False},
    "llama-untied": {"qk_norm": False, "tie_embeddings": False, "rope_theta": 500_000.0},
    "llama-linear": {"qk_norm": False, "rope_scaling": {"kind": "linear", "factor": 2.0}},
    "qwen3-yarn": {"d_head": 32, "rope_scaling": YARN},
    "llama-yarn": {"qk_norm": False, "max_seq_len": 128, "rope_scaling": YARN | {"beta_fast": 8.0}},
    "llama-llama3": {"qk_norm": False, "d_head": 32, "rope_scaling": LLAMA3},
}


@pytest.fixture(params=VARIANTS)
def exported(
    request: pytest.FixtureRequest, store: Store, tokenizer: Tokenizer, tmp_path: Path
) -> tuple[Any, Path]:
    """Our model, and the folder that it was exported to."""
    manifest = tiny_stored_model(store, tokenizer, **VARIANTS[request.param])
    with open_model_files(store, manifest) as files:
        write_hf_folder(tmp_path / "hf", files, b"card")
    return load_model(store, manifest), tmp_path / "hf"


def test_logits_and_greedy_text_are_ours(exported: tuple[Any, Path]) -> None:
    ours, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids_BT = torch.randint(0, 320, (2, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected_BTV = theirs(ids_BT).logits
        torch.testing.assert_close(ours.logits(ours(ids_BT)), expected_BTV, atol=1e-4, rtol=0)
    text = theirs.generate(
        ids_BT[:1, :20], attention_mask=torch.ones(1, 20), max_new_tokens=24, do_sample=False,
        eos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    sampling = SamplingParams(max_tokens=24, temperature=0)
    request = GenerateRequest("r", tuple(ids_BT[0, :20].tolist()), sampling)
    said = Engine(ours, n_slots=1).generate([request])["r"].token_ids
    assert list(said) == text[0, 20:].tolist()
    assert len(set(said)) > 3, "a text that repeats one token would prove little"


def test_what_they_save_we_import(exported: tuple[Any, Path], store: Store) -> None:
    """Their own writer spells the config in its own way."""
    ours, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.save_pretrained(folder.with_name("again"), max_shard_size="60KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder.with_name("again") / name).write_bytes((folder / name).read_bytes())
    described = describe_hf_folder(folder.with_name("again"))
    assert described.config == ours.config
    with open_hf_weights(folder.with_name("again"), described) as files:
        manifest = store_model_files(store, files, config={})
    ids_BT = torch.arange(40)[None]
    assert torch.equal(load_model(store, manifest)(ids_BT), ours(ids_BT))


@pytest.fixture(params=["ChatML", "Llama 3"])
def speaker(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of each chat format."""
    return tokenizer if request.param == "ChatML" else tiny_llama3_tokenizer()


@pytest.fixture
def folder(store: Store, speaker: Tokenizer, tmp_path: Path) -> Path:
    with open_model_files(store, tiny_stored_model(store, speaker)) as files:
        write_hf_folder(tmp_path / "hf", files, b"card")
    return tmp_path / "hf"


def conversations() -> list[list[Message]]:
    rng = random.Random(1)
    pieces = [
        "Hello",
        "  two spaces",
        "\n",
        "\n\nlines",
        "isn't",
        "1234567",
        "naïve café",
        "日本語",
        "🙂",
    ]
    pieces += [" ", "\t", "\xa0", "<|not special|>", "{{ bos_token }}", "user\n", "", "trailing \n"]
    made = []
    for n_turns in range(20):
        roles = ["system"] * (n_turns % 2) + ["user", "assistant"] * (n_turns // 2) + ["user"]
        made.append(
            [Message(role=role, content="".join(rng.choices(pieces, k=4))) for role in roles]  # type: ignore[arg-type]
        )
    return made


def test_tools_render_alike(folder: Path, speaker: Tokenizer) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tool = {"type": "function", "function": {"name": "f", "description": "<é> & 'x'"}}
    call = ToolCall(id="1", name="f", arguments='{"a": "é"}')
    messages = [
        Message(role="user", content="Call it."),
        Message(role="assistant", content="Yes.", tool_calls=(call, call)),
        Message(role="tool", content="done", tool_call_id="1"),
    ]
    for turns in (messages, [Message(role="system", content=" Be brief.\n"), *messages]):
        expected = [speaker.end_of_text_id, *render(turns, speaker, tools=[tool])]
        assert theirs.apply_chat_template(
            [m.model_dump() for m in turns],
            tools=[tool],
            add_generation_prompt=True,
            return_dict=False,
        ) == expected  # fmt: skip
        template = exported_template(speaker)
        assert render_template(template, turns, speaker, [tool]) == expected


def test_twenty_conversations_render_alike(folder: Path, speaker: Tokenizer) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    template = (folder / "chat_template.jinja").read_text("utf-8")
    exported = Tokenizer.from_bytes((folder / "tokenizer.json").read_bytes())
    names = json.loads((folder / "special_tokens_map.json").read_bytes())
    assert len(conversations()) == 20
    for messages in conversations():
        expected = [speaker.end_of_text_id, *render(messages, speaker)]
        assert theirs.apply_chat_template(
            [m.model_dump() for m in messages], add_generation_prompt=True, return_dict=False
        ) == expected  # fmt: skip
        dumped = [m.model_dump() for m in messages]
        variables = {"messages": dumped, "add_generation_prompt": True, **names}
        assert encode_with_special(answer(template, variables)["text"], exported) == expected


def test_their_tokenizer_reads_and_writes_text_as_ours(folder: Path, speaker: Tokenizer) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == speaker.vocab_size
    expected = (speaker.end_of_text_id, speaker.turn_end_id, speaker.pad_id)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == expected
    for text in ("Hello there,  how\n\n are you?", "1234 naïve 日本語 🙂", "don't , . !", " "):
        ids = speaker.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids) == text
    special = speaker.special_tokens
    assert theirs.convert_tokens_to_ids(list(special)) == list(special.values())


def test_their_generation_ends_where_ours_does(folder: Path, speaker: Tokenizer) -> None:
    config = transformers.GenerationConfig.from_pretrained(folder)
    assert config.eos_token_id == list(speaker.stop_ids)
