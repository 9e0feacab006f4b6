from __future__ import annotations

import time

import pytest

from mulm.data.personal import PLACEHOLDERS, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to jane.doe+x@mail.example.co.uk.", "Write to <mail>."),
        ("<mailto:a@b.org>", "<mailto:<mail>>"),
        ("the @decorator and user@host", "the @decorator and user@host"),
        ("Call +49 (30) 1234-5678 now", "Call <phone> now"),
        (
            "Call +1 415 555 2671, or (415) 555-2671; 415-555-2671.",
            "Call <phone>, or <phone>; <phone>.",
        ),
        ("in 1914-1918, ISBN 978-3-16-148410-0, 1,234,567.89", None),
        ("pi is 3.14159265358979, x = 2024-01-15 12:30:45", None),
        ("from 203.0.113.77 to 10.0.0.1", "from <ip> to 10.0.0.1"),
        ("version 1.2.3, 1.2.3.4.5 and 999.1.1.1", None),
        ("at 2001:db8:85a3::8a2e:370:7334, ace::bad, 10:20:30", "at <ip>, ace::bad, 10:20:30"),
    ],
)
def test_mask(text: str, masked: str | None) -> None:
    assert mask(text, ("ip", "phone", "mail")) == (text if masked is None else masked)


def test_only_what_is_asked_for() -> None:
    text = "a@b.org 203.0.113.77 (415) 555-2671"
    assert mask(text, ()) == text
    assert mask(text, ("ip",)) == "a@b.org <ip> (415) 555-2671"


def test_placeholders_stay() -> None:
    text = " ".join(PLACEHOLDERS.values())
    assert mask(text, ("mail", "phone", "ip")) == text


@pytest.mark.parametrize(
    "piece", ["a", "a.", "1", "1.", "1-", "+1 ", "a@", "a@b.", ":", "f:", "1.1."]
)
def test_time_grows_with_length_only(piece: str) -> None:
    start = time.process_time()
    mask("@ 1.1 :: " + piece * 30_000, ("mail", "phone", "ip"))
    assert time.process_time() - start < 2
