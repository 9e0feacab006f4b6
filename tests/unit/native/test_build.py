from __future__ import annotations

import os
from pathlib import Path

import pytest

from mulm.native import build as build_module
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


def test_a_library_that_cannot_be_loaded_or_removed_is_no_crash(tmp_path, monkeypatch):
    damaged = tmp_path / "kernels.so"
    monkeypatch.setattr("mulm.native.library.build", Compiler(damaged, b"no library").build)

    def refuse(path: Path, missing_ok: bool) -> None:
        raise PermissionError(f"read-only: {path} {missing_ok}")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(NoKernelsError, match="cannot be loaded: read-only"):
        load_library.__wrapped__(tmp_path)


@pytest.fixture
def compiled(monkeypatch) -> list[Path]:
    """What is compiled from now on, without the seconds that it takes."""
    made = []

    def compile_quickly(command: list[str]) -> None:
        made.append(Path(command[-1]))
        made[-1].write_bytes(b"code" * 10_000)

    monkeypatch.setattr(build_module, "_compile", compile_quickly)
    return made


@pytest.mark.parametrize("part", ["library", "sum"])
@pytest.mark.parametrize("left", [0, 8192, None])
def test_what_is_not_whole_is_made_anew_before_it_is_opened(tmp_path, compiled, part, left):
    path = build(tmp_path)
    assert build(tmp_path) == path
    assert len(compiled) == 1
    damaged = path if part == "library" else path.with_name(f"{path.name}.sha256")
    if left is None:
        damaged.unlink()
    else:
        content = damaged.read_bytes()
        damaged.write_bytes(content[: min(left, len(content) - 1)])
    assert build(tmp_path) == path
    assert len(compiled) == 2
    assert path.read_bytes() == b"code" * 10_000
    assert sorted(tmp_path.iterdir()) == [path, path.with_name(f"{path.name}.sha256")]


def test_what_was_compiled_survives_a_power_cut(tmp_path, compiled, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file)) or fsync(file))
    path = build(tmp_path / "new")
    inodes = {stat.st_ino for stat in synced}
    places = [*path.parent.iterdir(), path.parent, tmp_path]
    assert {place.stat().st_ino for place in places} <= inodes


def test_a_compiler_that_hangs_is_named(tmp_path, monkeypatch):
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(build_module, "_VERSION_TIMEOUT_S", 0.05)
    with pytest.raises(NoKernelsError, match="version"):
        build(tmp_path / "kernels")


class Compiler:
    """Writes a library where there is none, without the seconds that compiling takes."""

    def __init__(self, path, content):
        self.path, self.content = path, content

    def build(self, _folder, _flags):
        if not self.path.exists():
            self.path.write_bytes(self.content)
        return self.path
