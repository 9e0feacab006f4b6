from __future__ import annotations

import hashlib
import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.errors import AuthError, CorruptError, NotFoundError
from serve_app.key_text import digest_of, ensure_secret, id_in, is_key, make_text, read_secret

TEXT = make_text("key_0123456789ab")
OLD = "mulm_sk_" + "k" * 43
CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


def test_a_key_names_itself_and_holds_256_random_bits():
    assert re.fullmatch(r"mulm_sk_0123456789ab_[A-Za-z0-9]{43}_[0-9a-f]{8}", TEXT)
    assert 62**43 > 2**256
    assert len({make_text("key_0123456789ab") for _ in range(100)}) == 100
    assert is_key(TEXT)
    assert (id_in(TEXT), id_in(OLD)) == ("key_0123456789ab", "")


def test_every_single_typo_and_every_swap_is_found():
    for at in range(len(TEXT)):
        for char in CHARS:
            if char != TEXT[at]:
                assert not is_key(TEXT[:at] + char + TEXT[at + 1 :])
        assert not is_key(TEXT[:at] + TEXT[at + 1 :])
        swapped = TEXT[:at] + TEXT[at : at + 2][::-1] + TEXT[at + 2 :]
        assert swapped == TEXT or not is_key(swapped)


@given(st.text(max_size=90) | st.text(CHARS, min_size=43, max_size=80).map("mulm_sk_".__add__))
def test_whatever_else_is_no_key(text):
    if not re.fullmatch(r"mulm_sk_[A-Za-z0-9_-]{43}", text):
        assert not is_key(text)
        with pytest.raises(AuthError):
            digest_of(text, b"")


def test_a_digest_needs_the_installations_secret_and_an_old_one_does_not():
    assert digest_of(TEXT, b"a") != digest_of(TEXT, b"b")
    assert digest_of(TEXT, b"a").startswith("hmac-sha256:")
    assert digest_of(OLD, b"a") == digest_of(OLD, b"b") == hashlib.sha256(OLD.encode()).hexdigest()


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "key_secret"
    with pytest.raises(NotFoundError):
        read_secret(path)
    secret = ensure_secret(path)
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_secret(path) == secret == read_secret(path)
    path.write_text("short")
    with pytest.raises(CorruptError):
        ensure_secret(path)
