from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mulm.data.permutation import permute


@given(st.integers(1, 700), st.text(max_size=5))
def test_permute_is_a_bijection(size: int, key: str) -> None:
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


def test_permute_depends_on_the_key() -> None:
    orders = {tuple(permute(i, 100, key) for i in range(100)) for key in "abcd"}
    assert len(orders) == 4


def test_an_order_known_by_heart() -> None:
    """Runs are resumed in it."""
    assert [permute(i, 10, "key") for i in range(10)] == [8, 1, 2, 6, 0, 5, 7, 3, 4, 9]
