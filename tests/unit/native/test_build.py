from __future__ import annotations

import pytest

from mulm.native.build import NoKernelsError, build, find_compiler, library_path


def test_names_what_is_missing():
    with pytest.raises(NoKernelsError, match="CXX names 'not-a-compiler'"):
        find_compiler({"CXX": "not-a-compiler -O9"})


def test_a_failing_compiler_tells_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(NoKernelsError, match="the compiler failed"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NoKernelsError, match="cannot be kept"):
        build(tmp_path / "file" / "below")


def test_flags_make_another_library(tmp_path, kernels):
    compiler = find_compiler()
    assert library_path(tmp_path, compiler) != library_path(tmp_path, compiler, ("-DX",))
    assert build(kernels) == library_path(kernels, compiler)
