from __future__ import annotations

import logging
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from mulm.chat_format import CHATML
from mulm.data import encoder as encoder_module
from mulm.data.encoder import Encoder, encoder_of
from mulm.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

WORDS = "the of and it's DON'T we'll naïve 12 3456 e\u0301 中文 \n\n\t x  y !? ... "
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

any_text = (
    st.text()
    | st.lists(
        st.sampled_from([*WORDS.split(" "), " ", "\n", "\r\n", "'S", "7", *SPECIAL_TOKENS[:4]])
    ).map("".join)
    | st.text("aé\u0301\ud800\udc00\u017f\u212a'sS", max_size=20)
    | st.text(" \n\t\u00a0\u3000a", max_size=40)
)  # fmt: skip


def foreign(
    *steps: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None
) -> Tokenizer:
    """A tokenizer as others have them: words first, special tokens after them."""
    backend = Backend(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([WORDS * 20], trainer)
    backend.add_special_tokens([AddedToken(name, special=True) for name in CHATML.required])
    return Tokenizer.from_bytes(backend.to_str().encode())


def bytes_of_words(*, pattern: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


FAST = {
    "ours": train_tokenizer([WORDS * 20], 330),
    "gpt-2": foreign(bytes_of_words(pattern=True)),
    "nfc": foreign(split(QWEN), bytes_of_words(pattern=False), normalizer=normalizers.NFC()),
}
SLOW = {
    "two patterns": foreign(
        split(r"\p{N}{1,3}"), split(QWEN), bytes_of_words(pattern=False)
    ),
    "digits": foreign(pre_tokenizers.Digits(individual_digits=True), bytes_of_words(pattern=True)),
    "lowercase": foreign(
        split(QWEN), bytes_of_words(pattern=False), normalizer=normalizers.Lowercase()
    ),
}  # fmt: skip


@pytest.fixture(params=FAST)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """An encoder that has no right to fall back."""
    encoder = Encoder(FAST[request.param])
    assert encoder._fast is not None
    monkeypatch.setattr(encoder, "_agrees", lambda _: True)
    return encoder


def assert_equal(encoder: Encoder, text: str) -> None:
    [ids] = encoder.encode_batch([text])
    assert ids.dtype == np.uint32
    assert ids.tolist() == encoder.tokenizer.encode(text)


@pytest.mark.parametrize("name", FAST)
@given(text=any_text)
def test_ids_are_the_tokenizers(name: str, text: str) -> None:
    encoder = encoder_of(FAST[name].to_bytes())
    assert encoder._fast is not None
    assert encoder._quick(text).tolist() == encoder.tokenizer.encode(text)


def test_every_kind_of_character(encoder: Encoder) -> None:
    """The first and the last character of each run of one category."""
    kinds = [unicodedata.category(chr(code)) for code in range(0x30000)]
    codes = [
        code for code in range(1, len(kinds) - 1)
        if not kinds[code - 1] == kinds[code] == kinds[code + 1] and kinds[code] != "Cs"
    ]  # fmt: skip
    assert len(codes) > 3000
    assert_equal(encoder, "".join("a{0}b'{0} 1 {0}{0}\n".format(chr(code)) for code in codes))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a" * 100_000, "ab" * 50_000, " " * 100_000 + "x", "\n" * 20_000,
        "\t \r\n" * 2_000, "1234567" * 1_000, "!" * 20_000, "é" * 20_000, "中" * 9_000,
        "\u0301" * 1_000, "\ud800",
        "a\udfffb <|endoftext|> <|im_end|>", "\0\x01", "👩\u200d👩\u200d👧" * 200,
    ],
    ids=lambda text: f"{text[:3]!r} {len(text)}",
)  # fmt: skip
def test_hard_texts(encoder: Encoder, text: str) -> None:
    assert_equal(encoder, text)


def test_vocabularies_of_few_letters_merge_alike() -> None:
    """Where words are made of two letters, each token can be merged in many ways."""
    rng = random.Random(3)
    for alphabet in ("ab", "abc", "aé"):
        words = ["".join(rng.choices(alphabet, k=rng.randint(1, 14))) for _ in range(800)]
        encoder = Encoder(train_tokenizer([" ".join(words)], 500))
        assert encoder._fast is not None
        text = " ".join("".join(rng.choices(alphabet, k=rng.randint(1, 60))) for _ in range(200))
        assert encoder._quick(text).tolist() == encoder.tokenizer.encode(text)


@pytest.mark.parametrize("name", SLOW)
def test_what_tiktoken_cannot_do_is_not_tried(name: str) -> None:
    encoder = Encoder(SLOW[name])
    assert encoder._fast is None
    texts = ["small letters " * 2000 + "12345 It's", "6789 DON'T"]
    ids = [found.tolist() for found in encoder.encode_batch(texts)]
    assert ids == [SLOW[name].encode(text) for text in texts]


def test_words_that_are_found_before_a_text_is_cut() -> None:
    backend = Backend.from_str(FAST["gpt-2"].to_bytes().decode())
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    encoder = Encoder(Tokenizer.from_bytes(backend.to_str().encode()))
    assert encoder._fast is None
    assert_equal(encoder, "so<think> it is")


def test_a_difference_is_noted_and_the_tokenizer_encodes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder, other = Encoder(FAST["ours"]), Encoder(FAST["gpt-2"])
    encoder._fast = other._fast
    texts = ["the naïve x", "it's 3456"]
    with caplog.at_level(logging.WARNING):
        found = encoder.encode_batch(texts)
    assert [ids.tolist() for ids in found] == [FAST["ours"].encode(text) for text in texts]
    assert "tiktoken differs" in caplog.text
    assert "naïve" not in caplog.text


def test_texts_of_the_whole_batch_are_compared() -> None:
    texts = [f"text {n}" for n in range(1000)]
    head = encoder_module._head(texts)
    assert 8 <= len(head) <= 20
    assert head[0] == texts[0]
    assert texts.index(head[-1]) > 800
    assert encoder_module._head([]) == []
    assert len(encoder_module._head(["x" * 10**6])[0]) < 10**5


def test_made_once_in_a_process() -> None:
    content = FAST["ours"].to_bytes()
    assert encoder_of(content) is encoder_of(content)
    assert encoder_of(content).encode_batch([]) == []
