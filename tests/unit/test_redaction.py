from __future__ import annotations

import logging

from mulm.redaction import RedactingFormatter, redacted

NEW = "mulm_sk_0123456789ab_" + "A1b2" * 10 + "xyz_00ff00ff"
OLD = "mulm_sk_" + "a-_9" * 10 + "xyz"


def test_keys_lose_all_but_their_public_id():
    assert redacted(f"a {NEW!r} b") == "a 'mulm_sk_0123456789ab...' b"
    assert redacted(f"/x/{OLD}/y?k={NEW[:40]}") == "/x/mulm_sk_.../y?k=mulm_sk_0123456789ab..."
    assert redacted("Authorization: Bearer sk-abc123, x") == "Authorization: Bearer ..., x"
    assert redacted(f"Bearer {NEW}") == "Bearer mulm_sk_0123456789ab..."
    assert redacted("nothing to hide: key_0123456789ab") == "nothing to hide: key_0123456789ab"


def test_a_traceback_in_a_log_has_no_key():
    try:
        raise ValueError(f"no such key: {NEW}")
    except ValueError as error:
        told = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "with %s", (OLD,), told)
    text = RedactingFormatter("%(message)s").format(record)
    assert "Traceback" in text
    assert "A1b2" not in text
    assert "a-_9" not in text
