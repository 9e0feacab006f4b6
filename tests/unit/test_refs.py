from __future__ import annotations

import re

import pytest

from mulm.errors import ConfigError
from mulm.refs import Ref, new_id, parse_ref


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("books", Ref("books")),
        ("books@3", Ref("books", version=3)),
        ("my-model.v2@live", Ref("my-model.v2", alias="live")),
    ],
)
def test_reads_and_writes(text: str, ref: Ref) -> None:
    assert parse_ref(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    ["", "@1", "Books", "a b", "../etc", "books@", "books@0", "books@-1", "books@1x", "books@²",
     "books@1@2", "a" * 65, "books@Live"],
)  # fmt: skip
def test_refuses(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_ref(text)


def test_ids_are_fresh() -> None:
    assert re.fullmatch(r"req_[0-9a-f]{12}", new_id("req"))
    assert new_id("req") != new_id("req")
