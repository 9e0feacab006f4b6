"""`cluster.yaml` against Ray's own schema, and our promises about it."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray.autoscaler")

from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(yaml.safe_load(PATH.read_text()))


def test_it_fits_rays_schema(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_schema_refuses_a_misspelled_key(config: dict[str, Any]) -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(copy.deepcopy(config) | {"setup_comands": []}))


def test_what_it_runs_of_ours_is_there(config: dict[str, Any]) -> None:
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    modules = re.findall(r"python -m ([a-z_.]+)", commands)
    assert modules
    assert all(importlib.util.find_spec(name) for name in modules)


@pytest.mark.parametrize("who", ["head", "worker"])
def test_every_start_asks_for_the_token(config: dict[str, Any], who: str) -> None:
    start = config[f"{who}_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in start
    assert 'RAY_AUTH_TOKEN_PATH="$HOME/.mulm/ray_token"' in start
    assert "RAY_USAGE_STATS_ENABLED=0" in start
    assert "0.0.0.0" not in start
    assert config["file_mounts"]["~/.mulm/ray_token"] == "~/.mulm/ray_token"


def test_the_dashboard_stays_on_loopback(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
