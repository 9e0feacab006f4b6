"""Weights too large for one upload are spread over more files, and are the same weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from jobs.weight_parts import WeightParts
from mulm.errors import ConfigError
from mulm.model.hf_folder import write_hf_folder
from mulm.model.hf_import import INDEX, WEIGHTS, describe_hf_folder, open_hf_weights, weight_files
from mulm.model.model_files import open_model_files
from mulm.model.safetensors_file import TensorFiles
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer

BIG = 1 << 30


def folder_of(tmp_path: Path, max_part_bytes: int = BIG) -> Path:
    store = Store(tmp_path / "store")
    folder = tmp_path / "hf"
    with open_model_files(store, tiny_stored_model(store, tiny_tokenizer())) as files:
        write_hf_folder(folder, files, b"card", max_part_bytes=max_part_bytes)
    return folder


def copied(parts: WeightParts, into: Path) -> list[str]:
    into.mkdir()
    with closing(parts.files()) as paths:
        for path in paths:
            (into / path.name).write_bytes(path.read_bytes())
    return sorted(path.name for path in into.iterdir())


@pytest.mark.parametrize("max_part_bytes", [BIG, 40_000])
def test_files_that_fit_are_those_of_the_folder(tmp_path: Path, max_part_bytes: int) -> None:
    folder = folder_of(tmp_path, max_part_bytes)
    parts = WeightParts(folder, BIG)
    names = [WEIGHTS] if max_part_bytes == BIG else [*weight_files(folder), INDEX]
    assert list(parts.names) == names
    assert list(parts.files()) == [folder / name for name in names]


@pytest.mark.parametrize("max_part_bytes", [BIG, 200_000])
def test_what_is_cut_is_the_same_model(tmp_path: Path, max_part_bytes: int) -> None:
    folder, other = folder_of(tmp_path, max_part_bytes), tmp_path / "other"
    limit_bytes = max((folder / name).stat().st_size for name in weight_files(folder)) - 1
    names = copied(WeightParts(folder, limit_bytes), other)
    assert names == sorted(WeightParts(folder, limit_bytes).names)
    assert len(names) > 2
    assert max((other / name).stat().st_size for name in names) <= limit_bytes
    for small in ("config.json", "tokenizer.json"):
        (other / small).write_bytes((folder / small).read_bytes())
    open_hf_weights(other, describe_hf_folder(other)).tensors.__exit__(None, None, None)
    with (
        TensorFiles([folder / name for name in weight_files(folder)]) as before,
        TensorFiles([other / name for name in weight_files(other)]) as after,
    ):
        assert set(before.specs) == set(after.specs)
        assert all(torch.equal(before.read(name), after.read(name)) for name in before.specs)


def test_the_same_weights_are_cut_into_the_same_bytes_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "tmp"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    folder = folder_of(tmp_path)
    limit_bytes = (folder / WEIGHTS).stat().st_size - 1
    for number in (1, 2):
        copied(WeightParts(folder, limit_bytes), tmp_path / str(number))
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    with closing(WeightParts(folder, limit_bytes).files()) as paths:
        first = next(paths)
        assert first.is_file()
        next(paths)
        assert not first.exists()
    assert list(places.iterdir()) == []


def test_a_tensor_that_fits_in_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embed_tokens") as caught:
        WeightParts(folder_of(tmp_path), 10_000)
    assert "hub" in caught.value.hint


def test_too_many_files_become_fewer_or_are_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 40_000)
    n_files = len(weight_files(folder))
    assert n_files == 3
    assert len(WeightParts(folder, BIG, n_files).names) == n_files + 1
    fewer = WeightParts(folder, BIG, n_files - 1)
    assert list(fewer.names) == ["model-00001-of-00001.safetensors", INDEX]
    assert copied(fewer, tmp_path / "other") == sorted(fewer.names)
    with pytest.raises(ConfigError, match=r"a server takes 1\b") as caught:
        WeightParts(folder, 100_000, 1)
    assert "MULM_MAX_UPLOAD_BYTES" in caught.value.hint
