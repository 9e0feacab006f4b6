"""Exporters by name; each that can be opened here keeps the contract."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from mulm.errors import ConfigError
from mulm.train.config import ExporterName
from mulm.train.exporters import registry
from mulm.train.exporters.base import Exporter, RunFacts
from mulm.train.exporters.registry import ALWAYS, EXPORTERS, has_package, open_exporters
from mulm.train.exporters.registry import require_exporters as require


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFacts:
    """No network, and nothing outside the test's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = {"name": "tiny", "steps": 4, "optimizer": {"kind": "muon"}, "init_from": None}
    return RunFacts("run_0123456789ab", "tiny", tmp_path / "runs" / "run", 0, config)


def test_the_config_knows_each_by_name() -> None:
    assert {*get_args(ExporterName), ALWAYS} == EXPORTERS.keys()
    for target in EXPORTERS.values():
        module, _, name = target.partition(":")
        cls: Any = getattr(import_module(module), name)
        public = {method for method in vars(cls) if not method.startswith("_")}
        assert public == {"numbers", "text", "close"}


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "wandb" else 1)
    require(["trackio", "mlflow"])
    with pytest.raises(ConfigError, match="'wandb' is not installed") as error:
        require(["mlflow", "wandb"])
    assert "pip install 'mulm[wandb]'" in error.value.hint


def test_tensorboard_is_always_written_and_each_once(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(registry, "Background", lambda name, _: opened.append(name))
    monkeypatch.setattr(registry, "has_package", lambda _: True)
    open_exporters(["mlflow", "mlflow"], facts)
    assert opened == ["tensorboard", "mlflow"]


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.filterwarnings("default")  # of foreign packages
def test_the_contract(facts: RunFacts, name: str) -> None:
    if not has_package(name):
        pytest.skip(f"{name} is not installed")
    for first_step in (0, 2):  # the second goes on after a kill
        module, _, cls = EXPORTERS[name].partition(":")
        run = RunFacts(facts.run_id, facts.name, facts.folder, first_step, facts.config)
        exporter: Exporter = getattr(import_module(module), cls)(run)
        for step in range(first_step + 1, first_step + 3):
            exporter.numbers(step, {"loss": 1.0 / step, "grad_norm": math.inf})
            exporter.numbers(step, {"validation_bits_per_byte": 2.0})
        exporter.text(first_step + 2, "sample_1", "<b>bold</b>\n# µ and \x1b[31m")
        exporter.close()
