"""The card of a model tells its lineage, and its licences are read back."""

from __future__ import annotations

import pytest

from mulm.chat_format import CHATML, LLAMA3
from mulm.data.tokenizer import Tokenizer
from mulm.model.hf_import import licences_in
from mulm.model.model_card import model_card
from mulm.store import Store
from mulm.testing import TINY, tiny_dataset, tiny_stored_model


def test_the_card_tells_the_lineage(store: Store, tokenizer: Tokenizer) -> None:
    dataset = tiny_dataset(store)
    model = tiny_stored_model(store, tokenizer).model_copy(
        update={"parents": {"dataset": dataset.id, "run": "run_1"}, "counts": {"tokens": 12345}}
    )
    card = model_card("tiny@1", model, TINY, {"dataset": dataset}, CHATML)
    for told in (model.id, dataset.id, "run_1", "12,345 tokens", "2,000 train tokens", "cc0-1.0"):
        assert told in card


def test_the_card_tells_how_conversations_are_written(store: Store, tokenizer: Tokenizer) -> None:
    model = tiny_stored_model(store, tokenizer)
    for form, other in ((CHATML, LLAMA3), (LLAMA3, CHATML)):
        card = model_card("tiny@1", model, TINY, {}, form)
        assert form.name in card
        assert all(name in card for name in (form.document_begin, form.turn_begin, form.turn_end))
        assert other.turn_end not in card


@pytest.mark.parametrize(
    "licences", [(), ("cc0-1.0",), ("public domain (Project Gutenberg)",), ("cc0-1.0", "mit")]
)
def test_licences_are_read_back(
    store: Store, tokenizer: Tokenizer, licences: tuple[str, ...]
) -> None:
    model = tiny_stored_model(store, tokenizer).model_copy(update={"licences": licences})
    expected = (", ".join(licences) or "other",)
    assert licences_in(model_card("tiny@1", model, TINY, {}, CHATML)) == expected
    assert licences_in("# no front matter\nlicense: mit") == ()
