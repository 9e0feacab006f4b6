from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.terminal_text import harmless


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\x1b]0;pwned\x07", "␛]0;pwned␇"),
        ("a\rb\x7f\x9b2J", "a␍b␡\\u{9b}2J"),
        ("\u202egnp.exe\u2066", "\\u{202e}gnp.exe\\u{2066}"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("naïve 👩\u200d💻 می\u200cخواهم", "naïve 👩\u200d💻 می\u200cخواهم"),
    ],
)
def test_text_cannot_steer_a_terminal(text: str, told: str) -> None:
    assert harmless(text) == told


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    left = harmless(text)
    assert not {c for c in left if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0}
    left.encode()
