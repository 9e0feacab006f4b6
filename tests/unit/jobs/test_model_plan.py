"""`mulm model plan` in words and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs.cli import main
from jobs.model_plan import describe, make_plan
from mulm.errors import ConfigError, UnknownNameError


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["model", "plan", "--size", "micro", "--vocab-size", "8192", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["shape"]["vocab_size"] == 8192
    assert plan["bytes_by_format"]["bf16"] == 2 * plan["n_parameters"]
    assert len(plan["training"]) == 14


def test_in_words() -> None:
    lines = list(describe(make_plan("base", 32768, None)))
    assert lines[0].startswith("base: 475")
    assert any("muon" in line and "int8" in line and "again" in line for line in lines)
    assert "not measured" in lines[-1]


@pytest.mark.parametrize("size", ["bsae", "BASE", "Bas"])
def test_an_unknown_size_names_the_nearest(size: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        make_plan(size, 32768, None)
    assert error.value.hint == "did you mean 'base'?"


@pytest.mark.parametrize(
    ("vocab_size", "seq_len", "told"),
    [
        (32768, 0, "--seq-len 0 is too small"),
        (32768, 10**12, "--seq-len 1000000000000 is too large"),
        (-1, None, "--vocab-size -1 is too small"),
        (10**9, None, "--vocab-size 1000000000 is too large"),
    ],
)
def test_impossible_numbers_are_refused(vocab_size: int, seq_len: int | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        make_plan("base", vocab_size, seq_len)
    assert "use 1 to" in error.value.hint


def test_a_longer_row_raises_the_window() -> None:
    assert make_plan("nano", 4096, 4096)["shape"]["max_seq_len"] == 4096


def test_needs_no_torch() -> None:
    code = (
        "import sys; from jobs.model_plan import make_plan; make_plan('base', 32768, None);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
