from __future__ import annotations

import asyncio
import re
import stat

import pytest

from mulm.errors import AuthError, CorruptError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from serve_app.auth import KeyRing, digest_of
from serve_app.keys import ensure_first_key, make_key, read_first_key


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def facts(home):
    ledger = Ledger(home.ledger)
    yield ledger
    ledger.close()


def test_keys_have_their_form_and_differ():
    key_id, text, digest = make_key()
    assert re.fullmatch(r"mulm_sk_[A-Za-z0-9_-]{43}", text)
    assert key_id.startswith("key_")
    assert digest == digest_of(text)
    assert make_key()[1] != text


def test_the_first_key_is_made_once_and_printed_nowhere(home, facts, capsys):
    assert ensure_first_key(home, facts)
    key = read_first_key(home)
    assert stat.S_IMODE(home.api_key.stat().st_mode) == 0o600
    assert list(facts.key_digests()) == [digest_of(key)]
    assert not ensure_first_key(home, facts)
    assert read_first_key(home) == key
    assert len(facts.key_digests()) == 1
    assert key not in "".join(capsys.readouterr())


def test_a_lost_ledger_learns_the_key_again(home, facts, tmp_path):
    ensure_first_key(home, facts)
    fresh = Ledger(tmp_path / "fresh.sqlite")
    assert not ensure_first_key(home, fresh)
    assert list(fresh.key_digests()) == [digest_of(read_first_key(home))]
    fresh.close()


def test_a_lost_file_gets_a_new_key(home, facts):
    ensure_first_key(home, facts)
    facts.add_key("key_other", "d", "other")
    old = read_first_key(home)
    home.api_key.unlink()
    with pytest.raises(NotFoundError, match="no API key"):
        read_first_key(home)
    assert ensure_first_key(home, facts)
    assert facts.key_digests().keys() == {digest_of(read_first_key(home)), "d"}
    with pytest.raises(AuthError):
        asyncio.run(KeyRing(facts.key_digests).verify(old))


def test_a_file_with_something_else_is_refused(home, facts):
    home.api_key.write_bytes(b"\xff not a key")
    with pytest.raises(CorruptError):
        ensure_first_key(home, facts)
    assert facts.key_digests() == {}
