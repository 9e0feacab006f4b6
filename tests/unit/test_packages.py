"""The package chain: import-linter passes, and what it cannot express holds too."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Modules that a package never imports, with everything below them.
FORBIDDEN = {
    "mulm": ("ray", "fastapi", "starlette", "httpx", "click", "actors", "serve_app", "jobs"),
    "actors": ("ray.serve", "ray.data", "fastapi", "starlette", "serve_app", "jobs"),
    "serve_app": ("ray.data", "ray.train", "jobs"),
}

# The light floor of `mulm`: what the command line and the HTTP ingress may import.
HEAVY_FLOOR = (
    "mulm.model", "mulm.train", "mulm.engine", "mulm.eval", "mulm.native", "mulm.data.loader",
    "mulm.data.shards", "mulm.testing",
)  # fmt: skip


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Each module of a package: its dotted name and its file."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(source: str) -> Iterator[str]:
    """All dotted names that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def light_modules() -> list[str]:
    names = [name for name, _ in modules("mulm")]
    return [name for name in names if not any(is_below(name, heavy) for heavy in HEAVY_FLOOR)]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_nothing_forbidden(package: str) -> None:
    found = [
        f"{name} imports {target}"
        for name, path in modules(package)
        for target in imported(path.read_text(encoding="utf-8"))
        if any(is_below(target, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert found == []


def test_forbidden_names_are_seen_in_every_form() -> None:
    forms = "import ray.serve\nfrom ray import serve\ndef f():\n    from ray.serve import run\n"
    assert list(imported(forms)).count("ray.serve") == 3


def test_import_linter_passes() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml_has_one_door() -> None:
    users = [
        name
        for name, path in modules("mulm")
        if any(is_below(target, "yaml") for target in imported(path.read_text("utf-8")))
    ]
    assert users == ["mulm.yaml_text"]


def run_without(blocked: tuple[str, ...], names: list[str]) -> list[str]:
    """Import the modules in a fresh interpreter where `blocked` cannot be imported.

    Returns the modules that failed, with the reason.
    """
    program = (
        "import importlib, json, sys\n"
        "blocked, names = json.loads(sys.argv[1])\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"  # None makes `import` fail
        "failed = []\n"
        "for name in names:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        failed.append(f'{name}: {error}')\n"
        "print(json.dumps(failed))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([blocked, names])],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed: list[str] = json.loads(done.stdout.splitlines()[-1])
    return failed


@pytest.mark.slow
def test_light_floor_needs_no_torch() -> None:
    assert run_without(("torch", "ray", "fastapi"), light_modules()) == []


@pytest.mark.slow
def test_command_line_and_ingress_need_no_torch() -> None:
    assert run_without(("torch",), ["jobs.cli", "serve_app.ingress_host"]) == []


@pytest.mark.slow
def test_heavy_floor_needs_no_cluster_and_no_numpy() -> None:
    """A bare GPU machine has torch, tokenizers, pyarrow, safetensors and pydantic."""
    bare = ("ray", "numpy", "yaml", "fastapi", "click", "psutil", "httpx", "tqdm", "llguidance")
    heavy = [name for name, _ in modules("mulm") if any(is_below(name, h) for h in HEAVY_FLOOR)]
    assert run_without(bare, heavy) == []


def test_importing_mulm_needs_nothing_at_all() -> None:
    third_party = ("torch", "ray", "numpy", "yaml", "pyarrow", "tokenizers", "pydantic")
    assert run_without(third_party, ["mulm"]) == []
