from __future__ import annotations

import hashlib
import json
from array import array
from itertools import pairwise
from typing import Any

import pytest
import torch

from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.errors import ConfigError, CorruptError, DataError
from mulm.manifest import Manifest
from mulm.store import Store


def dataset(
    store: Store, train: list[list[int]], validation: list[int] | None = None, code: str = "H"
) -> Manifest:
    shards = {f"train-{i:05}": tokens for i, tokens in enumerate(train)}
    shards |= {"validation-00000": validation} if validation else {}
    return version(store, shards, code=code)


def version(
    store: Store,
    shards: dict[str, list[int]],
    masks: dict[str, list[int]] | None = None,
    code: str = "H",
    **config: Any,
) -> Manifest:
    """A dataset of these shards, with a loss mask beside some of them."""
    blobs = [
        store.put(f"{name}.bin", array(code, tokens).tobytes(), rows=len(tokens))
        for name, tokens in shards.items()
    ]
    for name, mask in (masks or {}).items():
        value = sum(bit << i for i, bit in enumerate(mask))
        blobs.append(store.put(f"{name}.mask", value.to_bytes((len(mask) + 7) // 8, "little")))
    manifest = Manifest(kind="dataset", code_version="0", config=config, blobs=tuple(blobs))
    store.save(manifest)
    return manifest


@pytest.mark.parametrize("group", ["", "my-books-"])
def test_shards_beyond_five_digits_count(store: Store, group: str) -> None:
    mixture = {"mixture": {group[:-1]: 1.0}} if group else {}
    shards = {f"train-{group}{n}": [1] * 9 for n in (99_999, 100_000)}
    assert TokenLoader(store, version(store, shards, **mixture), seq_len=4).n_tokens == 18


@pytest.mark.parametrize(
    ("code", "limit", "dataset_id", "digest"),
    [
        ("H", 60_000, "ds_1333dea81d44973fcaae8d22",
         "5679b54cbdad7a0aaedff07c7a645d4e8f53a9f844aa94c1479e2715302f4153"),
        ("I", 100_000, "ds_19b88a92f88452a11470d247",
         "6c7606261b835b4396eaf98ebb50b10f41985a0aedd92f277f29d18c13985d38"),
    ],
)  # fmt: skip
def test_batches_of_the_first_format_known_by_heart(
    store: Store, code: str, limit: int, dataset_id: str, digest: str
) -> None:
    """Runs are resumed on them: recorded with the first loader."""
    first, second, third, held_out = (
        [(i * 2654435761 + seed * 97) % limit for i in range(n_tokens)]
        for seed, n_tokens in ((1, 500), (2, 3), (3, 777), (4, 150))
    )
    manifest = dataset(store, [first, second, third], held_out, code)
    assert manifest.id == dataset_id
    seen = hashlib.sha256()
    for seq_len in (1, 7, 16, 300):
        for seed in (0, 9):
            loader = TokenLoader(store, manifest, seq_len=seq_len, seed=seed)
            for step in (0, 1, 5, 1000):
                for start, stop in ((0, None), (2, 5)):
                    x_BT, y_BT = loader.batch(step, 6, start, stop)
                    told = [loader.rows(step, 6), x_BT.tolist(), y_BT.tolist()]
                    seen.update(json.dumps(told).encode())
        held_out_loader = TokenLoader(store, manifest, "validation", seq_len=seq_len)
        for x_BT, y_BT in held_out_loader.iter_validation(3):
            seen.update(json.dumps([x_BT.tolist(), y_BT.tolist()]).encode())
    assert seen.hexdigest() == digest


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
    n_read, honest = 0, loader._tokens

    def counted(row: tuple[int, int]) -> torch.Tensor:
        nonlocal n_read
        n_read += 1
        return honest(row)

    monkeypatch.setattr(loader, "_tokens", counted)
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


def test_masked_targets_are_ignored_also_across_shards(store: Store) -> None:
    """The third shard has no mask: all of it is learned."""
    shards = {
        f"train-{i:05}": list(range(a, b)) for i, (a, b) in enumerate([(0, 9), (9, 50), (50, 90)])
    }
    learned = [i % 3 == 0 for i in range(50)] + [True] * 40
    masks = {"train-00000": learned[:9], "train-00001": learned[9:50]}
    loader = TokenLoader(store, version(store, shards, masks), seq_len=7)
    x_BT, y_BT = loader.batch(0, loader.n_windows)
    assert sorted(x_BT[:, 0].tolist()) == list(range(0, 84, 7))
    expected = torch.where(torch.tensor(learned)[x_BT + 1], x_BT + 1, IGNORED_TARGET)
    assert torch.equal(y_BT, expected)


@pytest.mark.parametrize("n_tokens", [16, 17, 21])
def test_validation_has_masks_too(store: Store, n_tokens: int) -> None:
    learned = [i % 2 for i in range(n_tokens)]
    shards = {"validation-00000": list(range(n_tokens))}
    manifest = version(store, shards, {"validation-00000": learned})
    loader = TokenLoader(store, manifest, "validation", seq_len=5)
    targets = [int(y) for _, y_BT in loader.iter_validation(2) for y in y_BT.flatten()]
    assert [y for y in targets if y != IGNORED_TARGET] == list(range(1, n_tokens, 2))


def test_a_mask_must_fit_its_shard(store: Store) -> None:
    manifest = version(store, {"train-00000": [1] * 30}, {"train-00000": [1] * 20})
    with pytest.raises(DataError, match="mask' does not fit"):
        TokenLoader(store, manifest, seq_len=4)


def packed(store: Store, seq_len: int, n_rows: int, **more: Any) -> Manifest:
    width = seq_len + 1
    tokens = list(range(width * n_rows))
    half = n_rows // 2 * width
    shards = {
        "train-00000": tokens[:half],
        "train-00001": tokens[half:],
        "validation-00000": tokens,
    }
    masks = {"train-00001": [t % width < 3 for t in tokens[half:]]}
    return version(store, shards, masks, pack={"mode": "best_fit", "seq_len": seq_len}, **more)


def test_packed_rows_are_windows(store: Store) -> None:
    manifest = packed(store, 4, 9)
    loader = TokenLoader(store, manifest, seq_len=4, seed=2)
    assert loader.n_windows == 9
    x_BT, y_BT = loader.batch(0, 9)
    assert sorted(x_BT[:, 0].tolist()) == list(range(0, 45, 5))
    for x_T, y_T, window in zip(x_BT, y_BT, loader.rows(0, 9), strict=True):
        first = 5 * window
        assert x_T.tolist() == list(range(first, first + 4))
        end = first + 3 if window >= 4 else first + 5
        whole = [*range(first + 1, end), *[IGNORED_TARGET] * 4][:4]
        assert y_T.tolist() == whole
    held_out = TokenLoader(store, manifest, "validation", seq_len=4)
    rows = [row for x_BT, _ in held_out.iter_validation(2) for row in x_BT.tolist()]
    assert rows == [list(range(first, first + 4)) for first in range(0, 44, 4)]
    assert TokenLoader(store, manifest, "validation", seq_len=7).n_targets == 44


def test_packed_rows_have_one_length(store: Store) -> None:
    with pytest.raises(ConfigError, match="for seq_len 4, not 8") as caught:
        TokenLoader(store, packed(store, 4, 9), seq_len=8)
    assert "set seq_len to 4" in caught.value.hint
    pack = {"mode": "best_fit", "seq_len": 4}
    with pytest.raises(DataError, match="no whole rows"):
        TokenLoader(store, version(store, {"train-00000": [1] * 9}, pack=pack), seq_len=4)
    with pytest.raises(DataError, match="'sorted'"):
        TokenLoader(store, version(store, {}, pack={"mode": "sorted"}), seq_len=4)


WEIGHTS = {"books": 0.6, "my-notes": 0.1, "web": 0.3}


def mixed(store: Store, **config: Any) -> Manifest:
    """Sources of different size whose tokens tell where they come from."""
    sizes = {"web": (10_000, 400), "books": (20_000, 900), "my-notes": (30_000, 90)}
    shards = {f"train-{name}-00000": list(range(a, a + n)) for name, (a, n) in sizes.items()}
    shards["train-web-00001"] = list(range(10_400, 10_500))
    shards["validation-00000"] = list(range(50))
    return version(store, shards, **({"mixture": WEIGHTS} | config))


def test_a_mixture_keeps_its_proportions_and_every_window_comes_once_an_epoch(store: Store) -> None:
    loader = TokenLoader(store, mixed(store), seq_len=9, seed=5)
    firsts = torch.cat([loader.batch(step, 64)[0][:, 0] for step in range(32)])
    for block in firsts.split(1024):
        counts = torch.bincount(block // 10_000).tolist()
        assert counts == [0, 307, 614, 103]
    for n_blocks in (1, 2):
        for source, n_windows in ((1, 55), (2, 99), (3, 9)):
            mine = firsts[: n_blocks * 1024]
            windows = (mine[mine // 10_000 == source] - source * 10_000) // 9
            counts = torch.bincount(windows, minlength=n_windows)
            assert len(counts) == n_windows
            assert counts.max() - counts.min() <= 1, "once in each epoch"
    assert sorted(set(loader.rows(0, 2048))) == list(range(loader.n_windows)) == list(range(163))
    held_out = TokenLoader(store, mixed(store), "validation", seq_len=7)
    assert sum(len(x_BT) for x_BT, _ in held_out.iter_validation(4)) == 7


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("start", [0, 41])
def test_workers_share_a_mixture(store: Store, workers: int, start: int) -> None:
    manifest = mixed(store)
    whole = TokenLoader(store, manifest, seq_len=9)
    loaders = [TokenLoader(store, manifest, seq_len=9) for _ in range(workers)]
    share = 48 // workers
    for step in range(start, start + 3):
        parts = [one.batch(step, 48, k * share, (k + 1) * share) for k, one in enumerate(loaders)]
        x_BT, y_BT = whole.batch(step, 48)
        assert torch.equal(torch.cat([x for x, _ in parts]), x_BT)
        assert torch.equal(torch.cat([y for _, y in parts]), y_BT)


def test_a_mixture_and_its_shards_must_agree(store: Store) -> None:
    with pytest.raises(DataError, match="'web'"):
        TokenLoader(store, mixed(store, mixture={"books": 1, "my-notes": 1}), seq_len=9)
    with pytest.raises(DataError, match="source 'wiki'"):
        TokenLoader(store, mixed(store, mixture=WEIGHTS | {"wiki": 1}), seq_len=9)
    with pytest.raises(DataError, match="'books'"):
        TokenLoader(store, mixed(store, mixture={}), seq_len=9)


def test_a_mixture_of_packed_rows(store: Store) -> None:
    pack = {"mode": "best_fit", "seq_len": 9}
    loader = TokenLoader(store, mixed(store, pack=pack), seq_len=9)
    x_BT, _ = loader.batch(0, 512)
    assert {int(first) % 10 for first in x_BT[:, 0]} == {0}
