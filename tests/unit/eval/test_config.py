"""What an evaluation is asked for is checked before anything is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mulm.config import parse_config
from mulm.errors import ConfigError, MulmError, UnknownNameError
from mulm.eval.config import EvaluateConfig
from mulm.eval.suites.registry import BITS_PER_BYTE, SUITES


def config(**values: object) -> EvaluateConfig:
    return parse_config(EvaluateConfig, {"model": "demo", **values})


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"suites": ["blmp"]}, UnknownNameError, "'blimp'"),
        ({"suites": ["arc"]}, UnknownNameError, "'arc_easy'"),
        ({"suites": []}, ConfigError, "suites"),
        ({"suites": ["piqa"], "data": {"pika": "x"}}, UnknownNameError, "'piqa'"),
        ({"suites": ["piqa"], "data": {"blimp": "x"}}, UnknownNameError, "piqa"),
        ({"suites": ["piqa"], "data": {"piqa:shots": "x"}}, UnknownNameError, "piqa"),
        ({"suites": ["blimp"], "limit": 0}, ConfigError, "limit"),
        ({"suites": ["blimp"], "limit": 2**31}, ConfigError, "limit"),
        ({"shots": 2**31}, ConfigError, "shots"),
        ({"seq_len": 2**31}, ConfigError, "seq_len"),
        ({"stride": 2**31}, ConfigError, "stride"),
        ({"precision": "fp8"}, ConfigError, "precision"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], error: type[MulmError], told: str) -> None:
    with pytest.raises(error) as caught:
        config(**values)
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_which_suites() -> None:
    assert config().has_bits_per_byte
    assert config().suite_names == ()
    assert config(suites=["all"]).suite_names == tuple(SUITES)
    assert config(suites=["all"]).has_bits_per_byte
    assert config(suites=["piqa", "blimp", "piqa"]).suite_names == ("piqa", "blimp")
    assert not config(suites=["piqa"]).has_bits_per_byte
    assert config(suites=["gsm8k"], data={"gsm8k:shots": "x", "gsm8k": "y"}).data["gsm8k"] == "y"


def test_the_page_tells_every_key_and_every_suite() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    first_cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.M)
    told = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    keys = set(EvaluateConfig.model_fields) - {"model"}
    assert told == keys | set(SUITES) | {BITS_PER_BYTE}
    metrics = {metric.name for suite in SUITES.values() for metric in suite.metrics}
    assert all(f"`{name}`" in page for name in metrics)
