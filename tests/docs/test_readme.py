"""The README's commands work: the marked blocks are run in order, as a new user would.

A block is run if the line before its fence is `<!-- run: journey -->`. The application gets a home
of its own and free ports; training is shortened. All else is as printed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
_MARKED = re.compile(r"^<!-- run: (\w+) -->\n```(\w+)\n(.*?)^```$", re.M | re.S)
_COMMAND_TIMEOUT_S = 600

# Training long enough to be real, short enough for a test.
SHORTER = {
    f"examples/{name}.yaml": f"examples/{name}.yaml --set steps=20 --set validate_every=20"
    for name in ("demo", "distill")
}


class Block(NamedTuple):
    """A piece of a page that can be run."""

    language: str
    text: str


def marked_blocks(page: str, mark: str) -> list[Block]:
    """The blocks of a page with that mark, in order."""
    return [block for name, block in all_marked(page) if name == mark]


def all_marked(page: str) -> list[tuple[str, Block]]:
    """All marks of a page in order, each with its block."""
    return [(name, Block(lang, text)) for name, lang, text in _MARKED.findall(page)]


def replaced(block: Block, replacements: Mapping[str, str]) -> Block:
    """The block with some of its words replaced."""
    text = block.text
    for old, new in replacements.items():
        text = text.replace(old, new)
    return block._replace(text=text)


def run_block(block: Block, env: Mapping[str, str], cwd: Path) -> str:
    """Run a block and return what it printed; an error fails the test with all of it."""
    command = {
        "sh": ["bash", "-euo", "pipefail", "-c", block.text],
        "python": [sys.executable, "-c", block.text],
    }[block.language]
    done = subprocess.run(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=_COMMAND_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.text}\nexit code {done.returncode}\n{done.stdout}"
    return done.stdout


# The mechanics


def test_only_marked_blocks_are_found() -> None:
    page = "```sh\nno\n```\n<!-- run: a -->\n```sh\nyes\n```\n<!-- run: b -->\n```python\n1\n```\n"
    assert marked_blocks(page, "a") == [Block("sh", "yes\n")]
    assert marked_blocks(page, "b") == [Block("python", "1\n")]
    assert all_marked(page) == [("a", Block("sh", "yes\n")), ("b", Block("python", "1\n"))]


def test_blocks_run_in_both_languages(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "WORD": "hello"}
    assert run_block(Block("sh", 'echo "$WORD"  # said\npwd\n'), env, tmp_path) == (
        f"hello\n{tmp_path}\n"
    )
    assert run_block(Block("python", "print(1 + 1)"), env, tmp_path) == "2\n"


def test_a_failing_command_in_the_middle_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        run_block(Block("sh", "false\necho later\n"), {"PATH": os.environ["PATH"]}, tmp_path)


def test_readme_has_the_whole_journey() -> None:
    text = "\n".join(block.text for block in marked_blocks(readme(), "journey"))
    wanted = ("mulm up", "data build", "mulm train", "mulm eval", "mulm serve", "mulm chat")
    wanted += ("ray job submit", "mulm runs compare", "curl", "client = OpenAI(", "mulm down")
    places = [text.find(words) for words in wanted]
    assert -1 not in places
    assert places == sorted(places)


# The journey


@pytest.mark.demo
@pytest.mark.timeout(1500)
def test_readme_works(journey_env: dict[str, str]) -> None:
    ports = {
        "127.0.0.1:8000": f"127.0.0.1:{journey_env['MULM_HTTP_PORT']}",
        "127.0.0.1:8265": f"127.0.0.1:{journey_env['MULM_DASHBOARD_PORT']}",
    }
    printed = [
        run_block(replaced(block, {**ports, **SHORTER}), journey_env, ROOT)
        for block in marked_blocks(readme(), "journey")
    ]
    steps, job, runs, curl, client, _, smaller = printed
    assert "sample@1" in steps
    assert "demo@1" in steps
    assert "second@1" in job
    assert "result      model: demo@1" in runs
    assert re.search("^config +run_.*\nname +(demo +second|second +demo)$", runs, re.M)
    assert curl.rstrip().endswith("data: [DONE]")
    assert client.strip()
    assert "demo-int4@1" in smaller
    assert "demo-small@1" in smaller
    assert not (Path(journey_env["HOME"]) / ".mulm" / "cluster.json").exists()


@pytest.fixture
def journey_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A new user's environment: an empty home, free ports, `mulm` on the path."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MULM_", "RAY_"))}
    programs = tmp_path / "bin"
    programs.mkdir()
    mulm = programs / "mulm"  # also where the project is not installed
    mulm.write_text(f"#!{sys.executable}\nfrom jobs.cli import main\n\nmain()\n")
    mulm.chmod(0o755)
    env = {
        **inherited,
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath]),
        "PYTHONPATH": str(ROOT),
        "MULM_HTTP_PORT": str(free_port()),
        "MULM_DASHBOARD_PORT": str(free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    try:
        yield env
    finally:
        run_block(Block("sh", "mulm down\n"), env, ROOT)


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")
