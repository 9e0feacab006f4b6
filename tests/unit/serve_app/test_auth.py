from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from mulm.accounts import Key
from mulm.errors import AuthError, NotRunningError
from serve_app.auth import STALE_KEYS_MAX_AGE_S, ForbiddenError, KeyRing
from serve_app.key_text import digest_of, make_text
from serve_app.keys import FIRST_KEY_NAME
from serve_app.settings import KEYS_MAX_AGE_S

SECRET = b"s" * 32
ONE, TWO = make_text("key_000000000001"), make_text("key_000000000002")


def key_of(number: int, expires_s: float | None = None) -> Key:
    return Key(f"key_{number}", f"number {number}", 0.0, "all", expires_s=expires_s)


class Ledger:
    def __init__(self):
        self.now_s = 0.0
        self.n_calls = 0
        self.keys = {digest_of(ONE, SECRET): key_of(1)}
        self.is_up = True

    def fetch(self):
        self.n_calls += 1
        if not self.is_up:
            raise NotRunningError("gone")
        return dict(self.keys)

    def clock(self):
        return self.now_s


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def verify(ledger):
    ring = KeyRing(ledger.fetch, SECRET, ledger.clock, now_s=lambda: 1000.0 + ledger.now_s)
    return lambda text: asyncio.run(ring.verify(text)).id


def test_a_known_key_is_recognised_and_others_are_not(verify):
    assert verify(ONE) == "key_1"
    for text in ("", "two", ONE.upper(), TWO, digest_of(ONE, SECRET), "wörld"):
        with pytest.raises(AuthError):
            verify(text)


def test_the_first_key_alone_asks_for_others_that_are_valid(ledger):
    first, other = replace(key_of(1), name=FIRST_KEY_NAME), key_of(2, expires_s=1500.0)
    ledger.keys = {digest_of(ONE, SECRET): first, digest_of(TWO, SECRET): other}
    ring = KeyRing(ledger.fetch, SECRET, ledger.clock, now_s=lambda: 1000.0 + ledger.now_s)
    assert asyncio.run(ring.verify(ONE)) == first
    assert ring.stand_in(first, "key_2") == other
    with pytest.raises(ForbiddenError, match="only the first key asks for others"):
        ring.stand_in(other, "key_1")
    for key_id in ("key_3", ""):
        with pytest.raises(AuthError, match="has begun this is not valid any more"):
            ring.stand_in(first, key_id)
    ledger.now_s = 600.0
    with pytest.raises(AuthError, match="not valid any more"):
        ring.stand_in(first, "key_2")


def test_a_typo_is_refused_without_the_ledger(ledger, verify):
    for text in (ONE[:-1], ONE + "0", ONE[:30] + ("x" if ONE[30] != "x" else "y") + ONE[31:], ""):
        with pytest.raises(AuthError, match="mistyped"):
            verify(text)
    assert ledger.n_calls == 0


def test_the_ledger_is_asked_every_few_seconds_only(ledger, verify):
    verify(ONE)
    ledger.keys = {digest_of(TWO, SECRET): key_of(2)}
    assert verify(ONE) == "key_1"
    assert ledger.n_calls == 1
    ledger.now_s += KEYS_MAX_AGE_S + 1
    assert verify(TWO) == "key_2"
    with pytest.raises(AuthError):
        verify(ONE)


def test_a_revoked_key_is_refused_within_five_seconds_on_every_replica(ledger):
    async def check():
        rings = [KeyRing(ledger.fetch, SECRET, ledger.clock) for _ in range(3)]
        for ring in rings:
            await ring.verify(ONE)
        ledger.keys = {}
        ledger.now_s += 5.0
        for ring in rings:
            with pytest.raises(AuthError):
                await ring.verify(ONE)

    asyncio.run(check())


def test_a_key_that_was_made_elsewhere_works_at_once(ledger, verify):
    verify(ONE)
    ledger.now_s += 1.1
    ledger.keys[digest_of(TWO, SECRET)] = key_of(2)
    assert verify(TWO) == "key_2"
    for _ in range(5):
        with pytest.raises(AuthError):
            verify(make_text("key_000000000003"))
    assert ledger.n_calls == 2, "who guesses does not have the ledger asked each time"


def test_an_expired_key_is_refused_to_the_second(ledger, verify):
    ledger.keys = {digest_of(ONE, SECRET): key_of(1, expires_s=1002.0)}
    assert verify(ONE) == "key_1"
    ledger.now_s = 1.9
    assert verify(ONE) == "key_1"
    ledger.now_s = 2.0
    with pytest.raises(AuthError, match="expired") as caught:
        verify(ONE)
    assert "mulm up" not in caught.value.hint
    first = replace(key_of(1, expires_s=1002.0), name=FIRST_KEY_NAME)
    ledger.keys = {digest_of(TWO, SECRET): first}
    with pytest.raises(AuthError, match="expired") as caught:
        verify(TWO)
    assert "mulm up" in caught.value.hint


def test_known_keys_outlive_a_short_absence_of_the_ledger(ledger, verify):
    verify(ONE)
    ledger.is_up = False
    ledger.now_s += KEYS_MAX_AGE_S + 1
    assert verify(ONE) == "key_1"
    ledger.now_s += STALE_KEYS_MAX_AGE_S
    with pytest.raises(NotRunningError):
        verify(ONE)


def test_after_a_quiet_hour_a_revoked_key_is_not_believed(ledger, verify):
    verify(ONE)
    ledger.keys = {}
    ledger.now_s += STALE_KEYS_MAX_AGE_S / 2
    with pytest.raises(AuthError):
        verify(ONE)


@pytest.mark.parametrize("error", [NotRunningError("actor 1a2b, pid 7"), RuntimeError("pid 7")])
def test_whatever_the_ledger_raises_tells_nothing_of_its_insides(ledger, error):
    def fetch():
        raise error

    with pytest.raises(NotRunningError) as caught:
        asyncio.run(KeyRing(fetch, SECRET, ledger.clock).verify(ONE))
    assert "pid" not in f"{caught.value.message}{caught.value.hint}"


def test_a_ledger_that_hangs_delays_nobody_whose_key_is_known(ledger):
    is_over = threading.Event()
    hangs = threading.Event()

    def fetch():
        if hangs.is_set():
            is_over.wait(20)
        return ledger.fetch()

    async def check():
        ring = KeyRing(fetch, SECRET, ledger.clock, wait_s=0.05)
        await ring.verify(ONE)
        hangs.set()
        for _ in range(40):  # more than the executor has threads
            ledger.now_s += KEYS_MAX_AGE_S + 1
            assert (await asyncio.wait_for(ring.verify(ONE), 1.0)).id == "key_1"
        assert ledger.n_calls == 1
        with pytest.raises(AuthError):
            await asyncio.wait_for(ring.verify(TWO), 1.0)
        is_over.set()
        await asyncio.sleep(0.1)
        ledger.keys = {digest_of(TWO, SECRET): key_of(2)}
        ledger.now_s += KEYS_MAX_AGE_S + 1
        assert (await ring.verify(TWO)).id == "key_2"

    started_s = time.monotonic()
    asyncio.run(check())
    assert time.monotonic() - started_s < 10
