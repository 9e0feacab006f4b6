from __future__ import annotations

from pathlib import Path

import pytest

from mulm.data.tokenizer import Tokenizer
from mulm.model.hf_folder import write_hf_folder
from mulm.model.model_files import ModelFiles, open_model_files
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def files(store: Store, tokenizer: Tokenizer) -> ModelFiles:
    return open_model_files(store, tiny_stored_model(store, tokenizer))


@pytest.fixture
def folder(files: ModelFiles, tmp_path: Path) -> Path:
    write_hf_folder(tmp_path / "hf", files, b"---\nlicense: cc0-1.0\n---\n")
    return tmp_path / "hf"
