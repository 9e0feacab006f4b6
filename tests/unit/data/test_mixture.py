from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.mixture import Mixture
from mulm.errors import ConfigError

WEIGHTS = st.dictionaries(
    st.sampled_from("abcdef"), st.floats(0.02, 100.0), min_size=1, max_size=6
).filter(lambda weights: min(weights.values()) / sum(weights.values()) > 0.004)


@given(WEIGHTS, st.text(max_size=3))
@settings(max_examples=25, deadline=None)
def test_proportions_are_exact_in_every_block_and_rows_are_handed_out_once(
    weights: dict[str, float], key: str
) -> None:
    mixture = Mixture(weights, key)
    size, total = mixture.block_rows, sum(weights.values())
    assert sum(mixture.counts.values()) == size
    for source, weight in weights.items():
        assert abs(mixture.counts[source] - size * weight / total) < 1 + 1e-6
    places = [mixture.place(position) for position in range(2 * size)]
    for block in range(2):
        counts = Counter(source for source, _ in places[block * size : (block + 1) * size])
        assert {mixture.sources[k]: n for k, n in counts.items()} == mixture.counts
    for source in range(len(weights)):
        rows = sorted(row for k, row in places if k == source)
        assert rows == list(range(len(rows)))


def test_the_order_of_the_weights_does_not_matter() -> None:
    one = Mixture({"a": 0.1, "b": 0.7, "c": 0.2}, "k")
    other = Mixture({"c": 0.4, "b": 1.4, "a": 0.2}, "k")
    assert one.counts == other.counts == {"a": 102, "b": 717, "c": 205}
    assert [one.place(i) for i in range(3000)] == [other.place(i) for i in range(3000)]


def test_a_rare_source_gets_a_larger_block() -> None:
    mixture = Mixture({"books": 999.0, "notes": 1.0}, "k")
    assert mixture.block_rows == 16_384
    assert mixture.counts["notes"] == 16


def test_the_key_changes_the_order() -> None:
    orders = {tuple(Mixture({"a": 1, "b": 1}, key).place(i) for i in range(50)) for key in "abc"}
    assert len(orders) == 3


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_impossible_weights(weight: float) -> None:
    with pytest.raises(ConfigError, match="'rare'"):
        Mixture({"common": 1.0, "rare": weight}, "k")
