from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.shards import ShardFiles, TokenShards
from mulm.data.tokens import Tokens
from mulm.store import Store

pairs = st.lists(st.tuples(st.integers(0, 60_000), st.booleans()), min_size=1, max_size=40)


def tokens_of(values: list[tuple[int, bool]]) -> Tokens:
    ids, learned = zip(*values, strict=True)
    return Tokens(np.array(ids, np.uint32), np.array(learned, np.bool_))


@settings(max_examples=40)
@given(pairs, st.sampled_from([60_001, 1 << 16, (1 << 16) + 1, 150_000]))
def test_the_loader_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[int, bool]], vocab_size: int
) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "shards")
    tokens = tokens_of(values)
    mask = tokens.mask()
    files = ShardFiles(
        store.put("a.bin", tokens.shard(vocab_size), len(tokens)),
        store.put("a.mask", mask, len(tokens)) if mask else None,
    )
    shards = TokenShards(store, [files])
    assert shards.tokens(0, len(tokens)).tolist() == tokens.ids.tolist()
    bits = shards.learned(0, len(tokens))
    assert [bool(bits >> place & 1) for place in range(len(tokens))] == tokens.learned.tolist()


@pytest.mark.parametrize(("vocab_size", "n_bytes"), [(288, 2), (65_536, 2), (65_537, 4)])
def test_width_of_a_token(vocab_size: int, n_bytes: int) -> None:
    assert Tokens.all_learned(np.array([1, 256], np.uint32)).shard(vocab_size) == (
        (1).to_bytes(n_bytes, "little") + (256).to_bytes(n_bytes, "little")
    )


def test_lowest_bit_first_and_no_mask_where_all_is_learned() -> None:
    learned = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], np.bool_)
    assert Tokens(np.zeros(10, np.uint32), learned).mask() == b"\x01\x02"
    assert Tokens.all_learned(np.zeros(10, np.uint32)).mask() == b""
    assert Tokens.joined([]).mask() == b""


@given(st.lists(pairs, max_size=4))
def test_joined_is_one_after_another(many: list[list[tuple[int, bool]]]) -> None:
    joined = Tokens.joined([tokens_of(values) for values in many])
    whole = [value for values in many for value in values]
    assert list(zip(joined.ids.tolist(), joined.learned.tolist(), strict=True)) == whole
    part = joined[1:3]
    assert list(zip(part.ids.tolist(), part.learned.tolist(), strict=True)) == whole[1:3]
    assert len(part) == len(whole[1:3])
