"""Two ingresses answer for one: limits, keys and deployments are the same at both."""

from __future__ import annotations

import time

import pytest

from benchmarks.limits_cluster import drain, make_key, owner_away, rate_let_in, revoked_after_s
from serve_app.deploy import deploy_ingress
from serve_app.keys import read_first_key

pytestmark = pytest.mark.cluster

PER_MINUTE = 600
SECONDS = 10.0


@pytest.fixture
def two(cluster):
    """The application with another ingress beside the one that is there."""
    deploy_ingress(cluster.info, cluster.home, n_replicas=2)
    yield cluster
    deploy_ingress(cluster.info, cluster.home)


def test_a_limit_holds_over_two_ingresses_and_without_the_owner_of_limits(two):
    url, first_key = two.info.api_url, read_first_key(two.home)
    key_id, key = make_key(url, first_key, PER_MINUTE)
    drain(url, key, PER_MINUTE)
    assert rate_let_in(url, key, SECONDS) == pytest.approx(PER_MINUTE, rel=0.1)
    with owner_away(two.home):
        begun_s = time.monotonic()
        assert rate_let_in(url, key, SECONDS) == pytest.approx(PER_MINUTE, rel=0.1)
        assert time.monotonic() - begun_s < SECONDS + 5.0, "nobody waits for it"
    assert revoked_after_s(url, first_key, key_id, key) < 5.0
