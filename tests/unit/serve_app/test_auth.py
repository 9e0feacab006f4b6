from __future__ import annotations

import asyncio
import threading
import time

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


def test_after_a_quiet_hour_a_revoked_key_is_not_believed(ledger, verify):
    verify("one")
    ledger.digests = {}
    ledger.now_s += STALE_KEYS_MAX_AGE_S / 2
    with pytest.raises(AuthError):
        verify("one")


@pytest.mark.parametrize("error", [NotRunningError("actor 1a2b, pid 7"), RuntimeError("pid 7")])
def test_whatever_the_ledger_raises_tells_nothing_of_its_insides(ledger, error):
    def fetch():
        raise error

    with pytest.raises(NotRunningError) as caught:
        asyncio.run(KeyRing(fetch, ledger.clock).verify("one"))
    assert "pid" not in f"{caught.value.message}{caught.value.hint}"


def test_a_ledger_that_hangs_delays_nobody_whose_key_is_known(ledger):
    is_over = threading.Event()
    hangs = threading.Event()

    def fetch():
        if hangs.is_set():
            is_over.wait(20)
        return ledger.fetch()

    async def check():
        ring = KeyRing(fetch, ledger.clock, wait_s=0.05)
        await ring.verify("one")
        hangs.set()
        for _ in range(40):  # more than the executor has threads
            ledger.now_s += KEYS_MAX_AGE_S + 1
            assert await asyncio.wait_for(ring.verify("one"), 1.0) == "key_1"
        assert ledger.n_calls == 1
        with pytest.raises(AuthError):
            await asyncio.wait_for(ring.verify("two"), 1.0)
        is_over.set()
        await asyncio.sleep(0.1)
        ledger.digests = {digest_of("two"): "key_2"}
        ledger.now_s += KEYS_MAX_AGE_S + 1
        assert await ring.verify("two") == "key_2"

    started_s = time.monotonic()
    asyncio.run(check())
    assert time.monotonic() - started_s < 10
