from __future__ import annotations

import asyncio
import re
import stat

import pytest

from mulm.errors import AuthError, CorruptError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from serve_app.auth import KeyRing
from serve_app.key_text import digest_of, read_secret
from serve_app.keys import ensure_first_key, make_key, read_first_key

OLD = "mulm_sk_" + "k" * 43


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def facts(home):
    ledger = Ledger(home.ledger)
    yield ledger
    ledger.close()


def opened(home, facts, text: str) -> str:
    """The name of the key of that text, for the ingress."""
    ring = KeyRing(facts.key_secrets, read_secret(home.key_secret))
    return asyncio.run(ring.verify(text)).name


def test_keys_have_their_form_and_differ():
    made = make_key(b"s")
    assert re.fullmatch(r"key_[0-9a-f]{12}", made.id)
    assert made.text.startswith(f"mulm_sk_{made.id.removeprefix('key_')}_")
    assert made.digest == digest_of(made.text, b"s")
    again = make_key(b"s", made.id)
    assert (again.id, again.text == made.text) == (made.id, False)


def test_the_first_key_is_made_once_and_printed_nowhere(home, facts, capsys):
    assert ensure_first_key(home, facts)
    key = read_first_key(home)
    assert stat.S_IMODE(home.api_key.stat().st_mode) == 0o600
    assert opened(home, facts, key) == "first"
    assert not ensure_first_key(home, facts)
    assert read_first_key(home) == key
    assert len(facts.key_secrets()) == 1
    assert key not in "".join(capsys.readouterr())
    assert key.encode() not in home.ledger.read_bytes()


def test_a_key_from_before_keys_had_a_checksum_goes_on_working(home, facts):
    home.api_key.write_text(f"{OLD}\n")
    facts.add_key("key_old", digest_of(OLD, b""), "first")
    assert not ensure_first_key(home, facts)
    assert read_first_key(home) == OLD
    assert opened(home, facts, OLD) == "first"


def test_a_lost_ledger_learns_the_key_again(home, facts, tmp_path):
    ensure_first_key(home, facts)
    fresh = Ledger(tmp_path / "fresh.sqlite")
    assert not ensure_first_key(home, fresh)
    assert opened(home, fresh, read_first_key(home)) == "first"
    fresh.close()


def test_a_lost_secret_of_the_installation_costs_other_keys_but_not_the_first(home, facts):
    ensure_first_key(home, facts)
    other = make_key(read_secret(home.key_secret))
    facts.add_key(other.id, other.digest, "other")
    home.key_secret.unlink()
    assert not ensure_first_key(home, facts)
    assert opened(home, facts, read_first_key(home)) == "first"
    with pytest.raises(AuthError):
        opened(home, facts, other.text)


def test_a_lost_file_gets_a_new_key(home, facts):
    ensure_first_key(home, facts)
    facts.add_key("key_other", "d", "other")
    old = read_first_key(home)
    home.api_key.unlink()
    with pytest.raises(NotFoundError, match="no API key"):
        read_first_key(home)
    assert ensure_first_key(home, facts)
    assert {key.name for key in facts.key_secrets().values()} == {"first", "other"}
    with pytest.raises(AuthError):
        opened(home, facts, old)


@pytest.mark.parametrize("end", ["removed", "rotated", "expired"])
def test_a_first_key_that_ended_does_not_come_back_with_the_next_start(home, facts, end):
    ensure_first_key(home, facts)
    old = read_first_key(home)
    [key] = facts.valid_keys()
    if end == "removed":
        facts.remove_key(key.id)
    elif end == "rotated":
        facts.rotate_key(key.id, "hmac-sha256:other", 0)
    else:
        facts.change_key(key.__class__(key.id, key.name, key.created_s, "all", expires_s=1.0))
    assert ensure_first_key(home, facts)
    assert read_first_key(home) != old
    with pytest.raises(AuthError):
        opened(home, facts, old)
    assert opened(home, facts, read_first_key(home)) == "first"


def test_a_file_with_something_else_is_refused(home, facts):
    home.api_key.write_bytes(b"\xff not a key")
    with pytest.raises(CorruptError):
        ensure_first_key(home, facts)
    assert facts.key_secrets() == {}
