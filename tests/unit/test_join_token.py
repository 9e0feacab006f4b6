"""The text that another machine's user pastes."""

from __future__ import annotations

import pytest

from mulm.errors import AuthError
from mulm.join_token import join_token, ray_token_in

TOKEN = "0123456789abcdef" * 4


def test_there_and_back() -> None:
    text = join_token(TOKEN)
    assert text.startswith("mulm_join_")
    assert ray_token_in(f"  {text}\n") == TOKEN


@pytest.mark.parametrize("cut", [1, 8, 9, 20, len(join_token(TOKEN))])
def test_a_part_is_known_as_one(cut: int) -> None:
    with pytest.raises(AuthError, match="incomplete"):
        ray_token_in(join_token(TOKEN)[:-cut])


def test_a_digit_that_was_mistyped_is_noticed() -> None:
    text = join_token(TOKEN)
    wrong = text.replace("0123", "0133", 1)
    with pytest.raises(AuthError, match="mistyped"):
        ray_token_in(wrong)
