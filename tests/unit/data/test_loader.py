from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.loader import IGNORED_TARGET, TokenLoader, permute
from mulm.errors import CorruptError, DataError
from mulm.manifest import Manifest
from mulm.store import Store


def dataset(
    store: Store, train: list[list[int]], validation: list[int] | None = None, code: str = "H"
) -> Manifest:
    shards = [(f"train-{i:05}.bin", tokens) for i, tokens in enumerate(train)]
    shards += [("validation-00000.bin", validation)] if validation else []
    blobs = tuple(store.put(n, array(code, t).tobytes(), rows=len(t)) for n, t in shards)
    manifest = Manifest(kind="dataset", code_version="0", config={}, blobs=blobs)
    store.save(manifest)
    return manifest


@given(st.integers(1, 700), st.text(max_size=5))
def test_permute_is_a_bijection(size: int, key: str) -> None:
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


def test_permute_depends_on_the_key() -> None:
    orders = {tuple(permute(i, 100, key) for i in range(100)) for key in "abcd"}
    assert len(orders) == 4


def test_every_window_once_per_epoch_and_orders_differ(store: Store) -> None:
    loader = TokenLoader(store, dataset(store, [list(range(1001))]), seq_len=10, seed=1)
    epochs = [[w for s in range(4) for w in loader.rows(4 * e + s, 25)] for e in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_workers_share_one_global_batch(store: Store, workers: int, start: int) -> None:
    manifest = dataset(store, [list(range(400)), list(range(400, 1000))])
    whole = TokenLoader(store, manifest, seq_len=16, seed=3)
    loaders = [TokenLoader(store, manifest, seq_len=16, seed=3) for _ in range(workers)]
    for step in range(start, start + 8):
        share = 12 // workers
        parts = [
            loader.batch(step, 12, k * share, (k + 1) * share) for k, loader in enumerate(loaders)
        ]
        x_BT, y_BT = whole.batch(step, 12)
        assert torch.equal(torch.cat([x for x, _ in parts]), x_BT)
        assert torch.equal(torch.cat([y for _, y in parts]), y_BT)
        assert x_BT.dtype == torch.int64
        assert torch.equal(x_BT[:, 1:], y_BT[:, :-1])


def test_windows_cross_shards(store: Store) -> None:
    manifest = dataset(store, [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9]])
    loader = TokenLoader(store, manifest, seq_len=9)
    x_BT, y_BT = loader.batch(0, 1)
    assert x_BT.tolist() == [list(range(9))]
    assert y_BT.tolist() == [list(range(1, 10))]


@pytest.mark.parametrize("n_tokens", [1, 2, 9, 10, 11, 35])
def test_validation_covers_every_target_once(store: Store, n_tokens: int) -> None:
    manifest = dataset(store, [[0, 1]], list(range(100, 100 + n_tokens)))
    loader = TokenLoader(store, manifest, "validation", seq_len=5)
    pairs = [
        (int(x), int(y))
        for x_BT, y_BT in loader.iter_validation(2)
        for x, y in zip(x_BT.flatten(), y_BT.flatten(), strict=True)
        if y != IGNORED_TARGET
    ]
    assert pairs == list(pairwise(range(100, 100 + n_tokens)))


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_workers_share_the_validation_and_read_only_their_part(
    store: Store, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = TokenLoader(store, dataset(store, [[0, 1]], list(range(48))), "validation", seq_len=4)
    whole = list(loader.iter_validation(2))
    n_read, honest = 0, loader._padded

    def counted(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal n_read
        n_read += 1
        return honest(start)

    monkeypatch.setattr(loader, "_padded", counted)
    for worker in range(workers):
        mine = loader.iter_validation(2, worker, workers)
        for number, (x_BT, y_BT) in zip(range(worker, len(whole), workers), mine, strict=True):
            assert torch.equal(x_BT, whole[number][0])
            assert torch.equal(y_BT, whole[number][1])
    assert n_read == 12
    n_read = 0
    next(loader.iter_validation(2))
    assert n_read == 2, "one batch in memory at a time"


def test_wide_tokens(store: Store) -> None:
    manifest = dataset(store, [[70_000, 70_001, 5]], code="I")
    assert TokenLoader(store, manifest, seq_len=2).batch(0, 1)[1].tolist() == [[70_001, 5]]


def test_another_seed_is_another_order(store: Store) -> None:
    manifest = dataset(store, [list(range(1001))])
    rows = {tuple(TokenLoader(store, manifest, seq_len=10, seed=s).rows(0, 50)) for s in range(3)}
    assert len(rows) == 3


def test_corrupt_shard_is_refused(store: Store) -> None:
    manifest = dataset(store, [list(range(100))])
    path = store.path(manifest.blobs[0])
    path.chmod(0o644)
    path.write_bytes(b"\xff" * 200)
    with pytest.raises(CorruptError, match="train-00000"):
        TokenLoader(store, manifest, seq_len=4)


def test_too_small_for_one_window(store: Store) -> None:
    with pytest.raises(DataError, match="fewer than one window"):
        TokenLoader(store, dataset(store, [[1, 2, 3]]), seq_len=4)
