from __future__ import annotations

import asyncio

import pytest

from mulm.errors import AuthError, NotRunningError
from serve_app.auth import STALE_KEYS_MAX_AGE_S, KeyRing, digest_of
from serve_app.settings import KEYS_MAX_AGE_S


class Ledger:
    def __init__(self):
        self.now_s = 0.0
        self.n_calls = 0
        self.digests = {digest_of("one"): "key_1"}
        self.is_up = True

    def fetch(self):
        self.n_calls += 1
        if not self.is_up:
            raise NotRunningError("gone")
        return dict(self.digests)

    def clock(self):
        return self.now_s


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def verify(ledger):
    ring = KeyRing(ledger.fetch, ledger.clock)
    return lambda key: asyncio.run(ring.verify(key))


def test_a_known_key_is_recognised_and_others_are_not(verify):
    assert verify("one") == "key_1"
    for key in ("", "two", "ONE", digest_of("one"), "wörld"):
        with pytest.raises(AuthError):
            verify(key)


def test_the_ledger_is_asked_every_few_seconds_only(ledger, verify):
    verify("one")
    ledger.digests = {digest_of("two"): "key_2"}
    assert verify("one") == "key_1"
    assert ledger.n_calls == 1
    ledger.now_s += KEYS_MAX_AGE_S + 1
    assert verify("two") == "key_2"
    with pytest.raises(AuthError):
        verify("one")


def test_known_keys_outlive_a_short_absence_of_the_ledger(ledger, verify):
    verify("one")
    ledger.is_up = False
    ledger.now_s += KEYS_MAX_AGE_S + 1
    assert verify("one") == "key_1"
    ledger.now_s += STALE_KEYS_MAX_AGE_S
    with pytest.raises(NotRunningError):
        verify("one")
