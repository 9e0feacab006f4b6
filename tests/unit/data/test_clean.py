from __future__ import annotations

import pickle
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.clean import Cleaner, decode, normalise, prepare
from mulm.data.contamination import ngram_hashes
from mulm.data.rules import CleanRules

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\n\r \t\x85\u2028\u200b\u0301e")
)


def plain_normalise(text: str) -> str:
    text = re.sub("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = re.sub("[\u00a0\u2007\u202f]", " ", re.sub("[\ufeff\u200b\u00ad]", "", text))
    text = unicodedata.normalize("NFC", text)
    text = re.sub("\n{4,}", "\n\n\n", re.sub("[ \t]+\n", "\n", text + "\n")).strip("\n")
    return text.rstrip() + "\n" if text.strip() else ""


@given(TEXTS)
def test_normalise_is_its_plain_definition(text: str) -> None:
    assert normalise(text) == plain_normalise(text)


@given(TEXTS)
def test_normalise_twice_is_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_normalise() -> None:
    text = "\ufeffCafe\u0301 \t\r\n\r\rnext\u00a0line\n\n\n\n\n\nend  "
    assert normalise(text) == "Café\n\n\nnext line\n\n\nend\n"
    assert normalise(" \n\t\n") == ""
    assert normalise("  indented\n    more") == "  indented\n    more\n"


@pytest.mark.parametrize("n_lines", range(1, 60))
def test_blank_lines_are_two_at_most(n_lines: int) -> None:
    assert normalise("a" + "\n" * n_lines + "b") == "a" + "\n" * min(n_lines, 3) + "b\n"


def test_half_surrogate_pairs_can_be_stored() -> None:
    assert normalise("a\ud83db") == "a\ufffdb\n"
    assert normalise("\ud83d\ude00") == "\U0001f600\n"


def test_decode() -> None:
    assert decode("€".encode()) == ("€", None)
    assert decode(b"\x89PNG\0\0")[1] == "binary"
    assert decode(b"caf\xe9")[1] == "invalid_utf8"


GOOD = """The harbour was empty when the last of the boats came home that evening.
Nobody had told the keeper of the lighthouse to be ready with his lamps.
She counted the sails twice, and then she ran down the hill to the water.
In the village people were closing their shutters against the storm.
An old man with a lantern asked whether they have enough rope for everyone.
By midnight all of them were drinking tea around the stove of the schoolhouse.
"""
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren, und so weiter.\n"
ALL_RULES = CleanRules(
    languages=("en",), quality=("gopher", "gopher_repetition", "fineweb", "c4"), mask=("mail",)
)


def test_default_rules_change_nothing_but_reasons() -> None:
    texts = [GOOD, "Hi.\n", GERMAN]
    cleaned = Cleaner(CleanRules()).clean(texts)
    assert (cleaned.texts, cleaned.reasons) == (texts, ["", "too_short", ""])
    assert cleaned.languages == [""] * 3
    assert Cleaner(CleanRules()).clean([]).texts == []


def test_all_rules() -> None:
    question = "Which of the following is a quick brown fox that jumped over a lazy dog, and why?"
    texts = [
        GOOD + "Please write to me@example.org or be sad.\n",
        GERMAN,
        GOOD[:200],
        GOOD + question + "\n",
        GOOD * 2,
        "Hi.\n",
    ]
    cleaner = Cleaner(ALL_RULES, ngram_hashes([question], 13), 13)
    cleaned = cleaner.clean(texts)
    assert cleaned.reasons == [
        "", "language", "gopher_too_few_words", "contaminated",
        "gopher_duplicate_lines", "too_short",
    ]  # fmt: skip
    assert cleaned.texts[0] == GOOD + "Please write to <mail> or be sad.\n"
    assert cleaned.languages == ["en", "de", "en", "en", "en", ""]
    assert pickle.loads(pickle.dumps(cleaner)).clean(texts) == cleaned
    alone = [cleaner.clean([text]) for text in texts]
    assert [own.reasons[0] for own in alone] == cleaned.reasons


def test_c4_changes_texts_for_the_rules_after_it() -> None:
    rules = CleanRules(quality=("c4", "gopher"))
    cleaned = Cleaner(rules).clean(
        ["A headline\n" + GOOD, GOOD[:180] + "A line. " * 3 + "\n", GERMAN]
    )
    assert cleaned.texts[0] == GOOD
    assert cleaned.reasons == ["", "gopher_too_few_words", "c4_too_few_sentences"]


def test_prepare_mends_before_it_normalises() -> None:
    assert prepare("CafÃ© \r\n", CleanRules(repair=True)) == "Café\n"
    assert prepare("CafÃ© \r\n", CleanRules()) == "CafÃ©\n"
