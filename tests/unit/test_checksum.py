from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from mulm.checksum import hash_file, in_threads


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"bytes" * 100_000)
    assert hash_file(path) == hashlib.sha256(b"bytes" * 100_000).hexdigest()


def test_two_threads_keep_the_order() -> None:
    both = threading.Barrier(2, timeout=10)

    def check(item: int) -> int:
        both.wait()
        return item

    assert list(in_threads(check, range(10))) == list(range(10))


def test_an_error_leaves_the_rest_undone() -> None:
    seen: list[int] = []

    def check(item: int) -> None:
        seen.append(item)
        if item == 3:
            raise KeyError(item)

    with pytest.raises(KeyError):
        list(in_threads(check, range(10_000)))
    assert len(seen) < 10_000
