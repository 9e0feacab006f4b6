from __future__ import annotations

import pytest

from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.engine.stops import StopStrings


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the end of the story. wörld " * 20], 300)


def seen_at(tokenizer: Tokenizer, text: str, stops: list[str]) -> int | None:
    """How many tokens of the text have come when a stop is seen."""
    watch = StopStrings(tokenizer, stops)
    for n, token_id in enumerate(tokenizer.encode(text), 1):
        if watch.push(token_id):
            return n
    return None


@pytest.mark.parametrize("stop", ["x", "story", "the end of the story", "ö", " w"])
def test_a_stop_is_seen_with_the_token_that_completes_it(tokenizer, stop):
    text = "qqq the end of the story. wörld x and on"
    seen = seen_at(tokenizer, text, ["never", stop])
    assert seen is not None
    ids = tokenizer.encode(text)
    assert stop in tokenizer.decode(ids[:seen])
    assert stop not in tokenizer.decode(ids[: seen - 1])


def test_what_is_not_there_is_not_seen(tokenizer):
    assert seen_at(tokenizer, "the end of the story", ["the  end", "storys", "\n"]) is None


def test_a_stop_that_was_passed_over_is_not_seen_again(tokenizer):
    under_test = StopStrings(tokenizer, ("a", "a much longer stop"))
    seen = [under_test.push(token_id) for token_id in tokenizer.encode("xaxyzxyza")]
    assert [at for at, is_there in enumerate(seen) if is_there] == [1, 8]
