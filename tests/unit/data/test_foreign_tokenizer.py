"""Tokenizers made elsewhere are read as their makers' code reads them, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from mulm.chat_format import CHATML, LLAMA3
from mulm.data.foreign_tokenizer import read_foreign_tokenizer, split_patterns
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.errors import CorruptError, DataError, UnknownNameError
from mulm.testing import tiny_llama3_tokenizer

PATTERN = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+|\s+|[^\s\p{L}\p{N}]+"


@pytest.fixture(scope="module")
def foreign() -> Backend:
    """As Qwen's: words first, special tokens after them, and one added word."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["hello there, how are you " * 20], trainer)
    backend.add_special_tokens([AddedToken(name, special=True) for name in CHATML.required])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return backend


def values_of(backend: Backend) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(backend.to_str())
    return values


def test_a_foreign_tokenizer_keeps_its_ids(foreign: Backend) -> None:
    tokenizer = read_foreign_tokenizer(foreign.to_str().encode())
    n_words = foreign.get_vocab_size(with_added_tokens=False)
    assert tokenizer.special_tokens == {name: n_words + i for i, name in enumerate(CHATML.required)}
    assert tokenizer.pad_id == tokenizer.end_of_text_id == n_words
    assert tokenizer.vocab_size == n_words + 4
    for text in ("hello there", "café 12 ~~\n\n", "<think>how</think>"):
        assert tokenizer.encode(text) == foreign.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<think>") == [n_words + 3]


def test_a_tokenizer_of_llama_3_has_its_own_ends() -> None:
    tokenizer = read_foreign_tokenizer(tiny_llama3_tokenizer().to_bytes())
    assert tokenizer.chat_format is LLAMA3
    begin, end, *_, eot = (tokenizer.id_of(name) for name in LLAMA3.required)
    assert tokenizer.end_of_text_id == begin
    assert tokenizer.pad_id == end
    assert tokenizer.text_stop_ids == (end, begin)
    assert tokenizer.stop_ids == (eot, end, begin, tokenizer.id_of("<|eom_id|>"))
    with pytest.raises(UnknownNameError):
        _ = tokenizer.id_of("<|im_end|>")


def test_what_is_missing_is_told_of_the_nearest_format() -> None:
    values = json.loads(tiny_llama3_tokenizer().to_bytes())
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != "<|eot_id|>"]
    with pytest.raises(DataError) as error:
        read_foreign_tokenizer(json.dumps(values).encode())
    assert "'<|eot_id|>', as Llama 3 has" in error.value.message
    assert all(name in error.value.hint for name in (*CHATML.required, *LLAMA3.required))


def test_text_does_not_spell_foreign_special_tokens(foreign: Backend) -> None:
    tokenizer = read_foreign_tokenizer(foreign.to_str().encode())
    ids = tokenizer.encode("a<|im_end|>b")
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == "a<|im_end|>b"


def test_how_its_makers_cut_their_rows_does_not_cut_texts(foreign: Backend) -> None:
    cut = Backend.from_str(foreign.to_str())
    cut.enable_truncation(3)
    cut.enable_padding(length=50)
    assert cut.encode("hello there, how are you").ids[3:] == [0] * 47
    tokenizer = read_foreign_tokenizer(cut.to_str().encode())
    ids = read_foreign_tokenizer(foreign.to_str().encode()).encode("hello there, how are you")
    assert tokenizer.encode("hello there, how are you") == ids
    assert tokenizer.encode_batch(["hello there, how are you", "hello"])[0] == ids


def test_ids_beyond_the_last_stand_for_nothing(foreign: Backend) -> None:
    """Foreign models round their embeddings up, so such an id can be sampled."""
    tokenizer = read_foreign_tokenizer(foreign.to_str().encode())
    assert tokenizer.decode([*tokenizer.encode("hello"), tokenizer.vocab_size + 5]) == "hello"


def test_added_tokens_are_counted_on_whatever_their_ids_say(foreign: Backend) -> None:
    """The backend does so, and with it their makers' own code: there are no gaps."""
    tokenizer = read_foreign_tokenizer(foreign.to_str().encode())
    values = values_of(foreign)
    values["added_tokens"][-1]["id"] += 7
    content = json.dumps(values)
    gap = Tokenizer.from_bytes(content.encode())
    assert gap.vocab_size == tokenizer.vocab_size
    [token_id] = gap.encode("<think>")
    assert [token_id] == Backend.from_str(content).encode("<think>").ids
    assert token_id == tokenizer.vocab_size - 1


def test_patterns_are_found() -> None:
    assert split_patterns(values_of(Backend.from_str(_own()))) == [_own_pattern()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    both = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    assert split_patterns({"pre_tokenizer": both}) == ["digits", "gpt-2"]


def _own() -> str:
    return train_tokenizer(["hello there " * 20], 290).to_bytes().decode()


def _own_pattern() -> str:
    return str(json.loads(_own())["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "byte fallback"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "bytes as they are"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"added_tokens": []}, "<|endoftext|>"),
    ],
)
def test_other_kinds_are_refused_with_what_works(
    foreign: Backend, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as error:
        read_foreign_tokenizer(json.dumps(values_of(foreign) | changes).encode())
    assert told in error.value.message
    assert "byte-level BPE" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dropout": 0.1}, "at random"),
        ({"end_of_word_suffix": "</w>"}, "where in a word"),
        ({"continuing_subword_prefix": "##"}, "where in a word"),
        ({"vocab": {"a": 4_000_000_000}}, "ids beyond 4194304"),
        ({"vocab": {"a": 1, "b": 1}}, "two of its tokens have one id"),
    ],
)
def test_words_that_are_built_otherwise_are_refused(
    foreign: Backend, changes: dict[str, Any], told: str
) -> None:
    values = values_of(foreign)
    values["model"] |= changes
    with pytest.raises(DataError, match=told):
        read_foreign_tokenizer(json.dumps(values).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"model": 3}'])
def test_what_is_no_tokenizer_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptError):
        read_foreign_tokenizer(content)
