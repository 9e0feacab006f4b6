from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.recipe import MIN_VOCAB_SIZE, N_SPECIAL
from mulm.data.tokenizer import (
    SPECIAL_TOKENS,
    IncrementalDecoder,
    Tokenizer,
    train_tokenizer,
)
from mulm.errors import (
    ConfigError,
    CorruptError,
    DataError,
    TokenizerMismatchError,
    UnknownNameError,
)

any_text = st.text() | st.lists(st.sampled_from([*SPECIAL_TOKENS, "a ", "é", "\n", "€"])).map(
    "".join
)
lone_surrogates = st.text(st.characters(categories=["Cs", "Ll"]))


def test_specials_are_the_first_ids(tokenizer: Tokenizer) -> None:
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == N_SPECIAL
    assert [tokenizer.id_of(name) for name in SPECIAL_TOKENS] == list(range(N_SPECIAL))
    assert tokenizer.end_of_text_id == 0
    assert tokenizer.pad_id == 1
    assert (tokenizer.id_of("<|im_start|>"), tokenizer.id_of("<|im_end|>")) == (2, 3)
    assert tokenizer.vocab_size == 512


def test_unknown_special_names_the_nearest(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnknownNameError) as caught:
        tokenizer.id_of("<|im_stop|>")
    assert "<|im_start|>" in caught.value.hint


@given(any_text)
def test_decode_undoes_encode_and_no_text_is_special(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(i >= N_SPECIAL for i in ids)
    assert tokenizer.encode_batch([text]) == [ids]
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@given(lone_surrogates)
def test_lone_surrogates_are_replaced(tokenizer: Tokenizer, text: str) -> None:
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@given(st.lists(st.integers(0, 511)), st.data())
def test_incremental_equals_whole(
    tokenizer: Tokenizer, ids: list[int], data: st.DataObject
) -> None:
    decoder, pieces, rest = IncrementalDecoder(tokenizer), [], ids
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        pieces.append(decoder.push(rest[:n]))
        rest = rest[n:]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_incremental_holds_back_half_a_character(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    ids = tokenizer.encode("€")
    assert [decoder.push([i]) for i in ids] == [""] * (len(ids) - 1) + ["€"]
    assert decoder.finish() == ""


def test_special_ids_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0, *tokenizer.encode("hi"), 3]) == "hi"


def test_training_is_deterministic_and_bytes_round_trip(prose: Callable[[int, int], str]) -> None:
    texts = [prose(seed, 10) for seed in range(3)]
    first, second = train_tokenizer(texts, 400), train_tokenizer(texts, 400)
    assert first.to_bytes() == second.to_bytes()
    again = Tokenizer.from_bytes(first.to_bytes())
    assert again.to_bytes() == first.to_bytes()
    assert again.fingerprint == first.fingerprint
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
    assert train_tokenizer([*texts, prose(9, 40)], 400).fingerprint != first.fingerprint


def test_another_tokenizer_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.require(tokenizer.fingerprint, "the model demo@1")
    with pytest.raises(TokenizerMismatchError, match="the model demo@1 was made with") as caught:
        tokenizer.require("0" * 24, "the model demo@1")
    assert tokenizer.fingerprint in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_foreign_bytes_are_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptError, match="not a tokenizer of ours"):
        Tokenizer.from_bytes(content)


def test_vocab_sizes_that_cannot_be(prose: Callable[[int, int], str]) -> None:
    with pytest.raises(ConfigError) as small:
        train_tokenizer(["text"], MIN_VOCAB_SIZE - 1)
    assert "288" in small.value.hint
    with pytest.raises(DataError, match="too large for this corpus") as large:
        train_tokenizer([prose(0, 10)], 50_000)
    assert "tokenizer.vocab_size" in large.value.hint
