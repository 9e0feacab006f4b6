from __future__ import annotations

from pathlib import Path

import pytest

from mulm.data.tokenizer import Tokenizer
from mulm.store import Store
from mulm.testing import tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
