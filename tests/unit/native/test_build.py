from __future__ import annotations

import pytest

from mulm.native.build import NoKernelsError, build, find_compiler, library_path
from mulm.native.library import load_library


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


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_damaged_library_is_compiled_anew(tmp_path, kernels, monkeypatch, content):
    whole = library_path(kernels, find_compiler())
    damaged = library_path(tmp_path, find_compiler())
    damaged.write_bytes(content)
    monkeypatch.setattr("mulm.native.library.build", Compiler(damaged, whole.read_bytes()).build)
    assert load_library.__wrapped__(tmp_path).mulm_page_tokens() > 0
    damaged = tmp_path / "another.so"  # the first is in use
    monkeypatch.setattr("mulm.native.library.build", Compiler(damaged, content).build)
    with pytest.raises(NoKernelsError, match="cannot be loaded"):
        load_library.__wrapped__(tmp_path)


class Compiler:
    """Writes a library where there is none, without the seconds that compiling takes."""

    def __init__(self, path, content):
        self.path, self.content = path, content

    def build(self, _folder, _flags):
        if not self.path.exists():
            self.path.write_bytes(self.content)
        return self.path
