"""Questions have the ids that the exported model gets from lm-evaluation-harness."""

from __future__ import annotations

import pytest

from mulm.data.tokenizer import Tokenizer
from mulm.eval.encoding import Encoder, TokenQuestion
from mulm.eval.suites.base import Continuation
from mulm.testing import tiny_llama3_tokenizer, tiny_tokenizer

OWN, LLAMA3 = tiny_tokenizer(), tiny_llama3_tokenizer()


def ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text))


@pytest.mark.parametrize(
    ("tokenizer", "add_bos", "begins"),
    [
        (OWN, None, False),
        (OWN, True, True),
        (OWN, False, False),
        (LLAMA3, None, True),
        (LLAMA3, True, True),
        (LLAMA3, False, False),
    ],
)
def test_a_context_begins_as_the_tokenizer_says(
    tokenizer: Tokenizer, add_bos: bool | None, begins: bool
) -> None:
    encoder = Encoder(tokenizer, add_bos)
    begin = (tokenizer.end_of_text_id,) if begins else ()
    asked = encoder.question(Continuation("Hello there", ", how"))
    assert asked == TokenQuestion(begin + ids(tokenizer, "Hello there"), ids(tokenizer, ", how"))
    assert tuple(encoder.prompt("Hello")) == begin + ids(tokenizer, "Hello")


@pytest.mark.parametrize("tokenizer", [OWN, LLAMA3])
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_an_empty_context_is_the_beginning_of_a_document(
    tokenizer: Tokenizer, add_bos: bool | None
) -> None:
    asked = Encoder(tokenizer, add_bos).question(Continuation("", " Hello"))
    assert asked == TokenQuestion((tokenizer.end_of_text_id,), ids(tokenizer, " Hello"))
    assert Encoder(tokenizer, add_bos).prompt("") == [tokenizer.end_of_text_id]


@pytest.mark.parametrize("space", [" ", "\n", " \n "])
def test_white_space_at_the_border_belongs_to_the_continuation(space: str) -> None:
    encoder = Encoder(OWN)
    asked = encoder.question(Continuation(f"Hello{space}", "there"))
    assert asked == encoder.question(Continuation("Hello", f"{space}there"))
    assert asked.context_ids == ids(OWN, "Hello")
    only_space = encoder.question(Continuation(space, "there"))
    assert only_space == TokenQuestion((OWN.end_of_text_id,), ids(OWN, f"{space}there"))


def test_both_are_encoded_as_one_text() -> None:
    whole = ids(OWN, "wizard")
    asked = Encoder(OWN).question(Continuation("wiz", "ard"))
    assert asked.context_ids == ids(OWN, "wiz")
    assert asked.target_ids == (whole[len(asked.context_ids) :] or ids(OWN, "ard"))
    assert asked.target_ids


def test_a_spelled_special_token_is_plain_text() -> None:
    asked = Encoder(OWN).question(Continuation("", " <|im_end|>"))
    assert OWN.id_of("<|im_end|>") not in asked.target_ids
