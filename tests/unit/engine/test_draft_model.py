"""A draft reads what it has not read, in windows of its own, and changes nothing of a sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.pages import pages_for
from mulm.engine.speculation import Speculation
from mulm.errors import ConfigError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.batch import PAGE_TOKENS

CONFIG = FakeConfig(vocab_size=288, max_seq_len=96)


def fake(salt: int = 0) -> FakeModel:
    return FakeModel(CONFIG, salt)


def engine(draft: DraftModel, model: FakeModel | None = None, n_slots: int = 4) -> Engine:
    return Engine(
        model or fake(), n_slots, clock=lambda: 0.0, speculation=Speculation(draft), seed=0
    )


def request(name: str, prompt=(1, 2, 3), max_tokens=40) -> GenerateRequest:
    return GenerateRequest(name, tuple(prompt), SamplingParams(max_tokens, 0.0))


def test_a_draft_of_another_vocabulary_is_refused():
    with pytest.raises(ConfigError) as caught:
        engine(DraftModel(FakeModel(FakeConfig(vocab_size=50))))
    assert caught.value.details["param"] == "draft"


def test_a_long_text_is_read_by_the_draft_in_pieces():
    config = FakeConfig(vocab_size=288, max_seq_len=1000)
    draft = FakeModel(config)
    under_test = engine(DraftModel(draft), FakeModel(config), n_slots=1)
    under_test.generate([request("a", [n % 288 for n in range(700)], 60)])
    assert max(max(sizes) for sizes in draft.batches) == 256
    stats = under_test.stats()
    assert stats.accepted_tokens == stats.proposed_tokens > 30


def test_many_long_texts_are_read_by_the_draft_one_after_the_other():
    config = FakeConfig(vocab_size=288, max_seq_len=1000)
    draft, model = FakeModel(config), FakeModel(config)
    under_test = engine(DraftModel(draft), model)
    asked = [request(f"r{n}", [(n + i) % 288 for i in range(300)], 60) for n in range(4)]
    under_test.generate(asked)
    assert max(map(sum, draft.batches)) <= 256 + 3 * 9
    stats = under_test.stats()
    assert stats.accepted_tokens == stats.proposed_tokens > 100


def test_what_it_read_beyond_the_answer_is_read_again():
    """Of its guesses fewer are taken than it made, so that it may know the newest token."""

    class Few(DraftModel):
        def propose(self, sequences, counts):
            return [found[:1] for found in super().propose(sequences, counts)]

    under_test = engine(Few(fake()), n_slots=1)
    under_test.generate([request("a")])
    stats = under_test.stats()
    n_plain = 1 + 8  # the first, and the trial of going without
    assert stats.accepted_tokens == stats.proposed_tokens == (40 - n_plain) // 2


WINDOW_BYTES = pages_for(CONFIG.max_seq_len) * PAGE_TOKENS
"""A page of the fake model has a byte for each token."""


@pytest.mark.parametrize(
    ("kv_bytes", "n_windows"),
    [(None, 4), (0, 1), (2 * WINDOW_BYTES - 1, 1), (2 * WINDOW_BYTES, 2), (1 << 30, 4)],
)
def test_its_memory_is_bounded(kv_bytes, n_windows):
    draft = DraftModel(fake(), kv_bytes)
    engine(draft)
    assert draft.n_windows == n_windows


def test_who_finds_no_window_goes_on_unguessed_and_the_next_gets_one():
    model = fake()
    under_test = engine(DraftModel(model, WINDOW_BYTES))
    first = under_test.generate([request(f"r{n}", (n,)) for n in range(3)])
    alone = under_test.stats()
    assert alone.accepted_tokens == alone.proposed_tokens > 20
    assert max(map(len, model.batches)) == 1
    again = under_test.generate([request("again", (0,))])
    assert again["again"].token_ids == first["r0"].token_ids
    assert under_test.stats().accepted_tokens > alone.accepted_tokens + 20


def test_a_cancelled_stream_leaves_its_window():
    draft = DraftModel(fake(), WINDOW_BYTES)
    under_test = engine(draft)
    under_test.add(request("gone"))
    for _ in range(3):
        under_test.step()
    assert under_test.stats().accepted_tokens > 0
    under_test.cancel("gone")
    before = under_test.stats().accepted_tokens
    under_test.generate([request("next", (7,))])
    assert under_test.stats().accepted_tokens > before + 20


def test_it_stops_guessing_at_the_end_of_an_answer():
    whole = engine(DraftModel(fake())).generate([request("a")])["a"].token_ids
    draft_model = fake()
    under_test = engine(DraftModel(draft_model), n_slots=1)
    stopping = replace(request("a"), sampling=SamplingParams(40, 0.0, stop_token_ids=(whole[4],)))
    assert under_test.generate([stopping])["a"].token_ids == whole[: whole.index(whole[4])]
    assert sum(map(sum, draft_model.batches)) <= 3 + whole.index(whole[4])
