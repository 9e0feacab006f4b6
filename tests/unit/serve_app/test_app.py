"""What the deployments are made of; read from the built application, no cluster."""

from __future__ import annotations

import warnings

import pytest

from mulm.errors import DeviceError
from serve_app.settings import AppArgs, IngressArgs

with warnings.catch_warnings():  # Serve's own, at import
    warnings.simplefilter("ignore")
    from serve_app.app import build_engine, build_ingress, engine_resources, placeable_replicas


@pytest.mark.parametrize(
    ("given", "resources", "expected"),
    [
        ({"max_replicas": 4, "n_threads": 1}, {"CPU": 8}, 4),
        ({"max_replicas": 4, "n_threads": 1}, {"CPU": 2}, 2),
        ({"max_replicas": 4}, {"CPU": 8, "node:10.0.0.1": 1, "node:__internal_head__": 1}, 1),
        ({"max_replicas": 4}, {"CPU": 8, "node:10.0.0.1": 1, "node:fd00::2": 1}, 2),
        ({"min_replicas": 0}, {"CPU": 8, "node:10.0.0.1": 1}, 1),
        ({"max_replicas": 4, "n_threads": 4}, {"CPU": 8}, 2),
        ({"max_replicas": 4, "min_replicas": 3}, {"CPU": 2}, 3),
        ({"max_replicas": 4}, {"CPU": 8, "GPU": 1}, 1),
        ({"max_replicas": 4, "gpus_per_replica": 0.5}, {"CPU": 8, "GPU": 1}, 2),
        ({"max_replicas": 4, "device": "cpu", "n_threads": 1}, {"CPU": 8, "GPU": 1}, 4),
    ],
)
def test_no_more_engines_than_the_machine_can_place(given, resources, expected):
    count, reason = placeable_replicas(AppArgs(**given), resources)
    assert count == expected
    assert reason


def test_more_gpus_than_there_are_is_an_error_and_not_a_wait():
    with pytest.raises(DeviceError, match="2 engines"):
        placeable_replicas(AppArgs(min_replicas=2), {"GPU": 1})
    with pytest.raises(DeviceError):
        placeable_replicas(AppArgs(device="cuda"), {"CPU": 8})


def test_a_gpu_is_reserved_where_one_is_used():
    assert engine_resources(AppArgs(), has_gpu=True)["num_gpus"] == 1
    assert engine_resources(AppArgs(gpus_per_replica=0.25), has_gpu=True)["num_gpus"] == 0.25
    assert engine_resources(AppArgs(device="cpu"), has_gpu=True)["num_gpus"] == 0


def test_every_line_has_a_bound_and_broken_replicas_go_soon():
    ingress = build_ingress(IngressArgs(drain_s=50.0))._bound_deployment
    engine = build_engine(AppArgs(model="m@1", request_timeout_s=50.0))._bound_deployment
    for deployment in (ingress, engine):
        options = deployment._deployment_config
        assert options.max_queued_requests > 0
        assert options.graceful_shutdown_timeout_s == 50.0, "running streams end by themselves"
    # Serve replaces a replica after three failed checks in a row.
    assert 3 * engine._deployment_config.health_check_period_s < 5
