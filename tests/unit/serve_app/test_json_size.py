from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app import json_size
from serve_app.json_size import MAX_GROUPS, MAX_TEXTS, MAX_VALUES, holds_too_much


def nested(n_groups: int) -> list:
    return [[] for _ in range(n_groups - 1)]


@pytest.mark.parametrize(("at_most", "too_much"), [
    ([7] * (MAX_VALUES - 1), [7] * (MAX_VALUES + 1)),
    (["a"] * MAX_TEXTS, ["a"] * (MAX_TEXTS + 1)),
    (["\\"] * MAX_TEXTS, ["\\"] * (MAX_TEXTS + 1)),
    (['"'] * MAX_TEXTS, ['"'] * (MAX_TEXTS + 1)),
    ({str(n): 1 for n in range(MAX_TEXTS)}, {str(n): 1 for n in range(MAX_TEXTS + 1)}),
    (nested(MAX_GROUPS), nested(MAX_GROUPS + 1)),
    ([{}] * (MAX_GROUPS - 1), [{}] * MAX_GROUPS),
])  # fmt: skip
def test_bodies_are_taken_up_to_the_limits(at_most, too_much):
    for indent in (None, 1):
        assert not holds_too_much(json.dumps(at_most, indent=indent).encode())
        assert holds_too_much(json.dumps(too_much, indent=indent).encode())


@pytest.mark.parametrize("text", ["[", "{", ",", '"', "\\", '\\"', '",', '["a", {"b": "\\\\"}],'])
def test_what_stands_in_a_text_is_text(text):
    for ascii_only in (True, False):
        body = json.dumps({"a": text * 500_000 + "ä"}, ensure_ascii=ascii_only).encode()
        assert not holds_too_much(body)


def counted(value: object) -> tuple[int, int, int]:
    """Values as the limits count them, texts and groups among them."""
    if isinstance(value, str):
        return 1, 1, 0
    if not isinstance(value, list | dict):
        return 1, 0, 0
    texts = len(value) if isinstance(value, dict) else 0
    inner = value.values() if isinstance(value, dict) else value
    found = [counted(item) for item in inner]
    return (
        1 + sum(f[0] for f in found),
        texts + sum(f[1] for f in found),
        1 + sum(f[2] for f in found),
    )


@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(alphabet='a"\\[{,:ä\n', max_size=8),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(st.text(alphabet='a"\\[{', max_size=3), inner, max_size=5)
        ),
    ),
    limit=st.sampled_from(["MAX_TEXTS", "MAX_GROUPS"]),
    more=st.booleans(),
)
def test_texts_and_groups_are_counted_as_a_parser_would(value, limit, more):
    n = counted(value)[1 if limit == "MAX_TEXTS" else 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_size, "_FEW_BYTES", 0)
        patch.setattr(json_size, limit, n - more)
        assert holds_too_much(json.dumps(value).encode()) == more


def test_a_small_body_cannot_hold_too_much():
    for item, most in ((b"1,", MAX_VALUES), (b'"",', MAX_TEXTS), (b"[],", MAX_GROUPS)):
        assert json_size._FEW_BYTES // len(item) < most
