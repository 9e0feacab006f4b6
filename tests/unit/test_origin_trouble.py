from __future__ import annotations

import pytest

from mulm.errors import AuthError, ConfigError, MulmError, UnreachableError
from mulm.origin_trouble import shown, trouble

DURING = "When getting information for key 'a' in bucket 'b': AWS Error"


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        (f"{DURING} NETWORK_CONNECTION during HeadObject operation: curlCode: 7",
         UnreachableError, "check the network"),
        (f"{DURING} ACCESS_DENIED during HeadObject operation", AuthError, "AWS_ACCESS_KEY_ID"),
        (f"{DURING} INVALID_ACCESS_KEY_ID during PutObject", AuthError, "AWS_ACCESS_KEY_ID"),
        ("Bucket 'b' not found. To create buckets, ...", ConfigError, "make the bucket first"),
        (f"{DURING} NO_SUCH_BUCKET during HeadObject", ConfigError, "make the bucket first"),
        ("[Errno 30] Read-only file system", ConfigError, "look there"),
    ],
)  # fmt: skip
def test_what_is_said_tells_what_to_do(said: str, kind: type[MulmError], hint: str) -> None:
    error = trouble("the store cannot be read", OSError(said), "look there")
    assert type(error) is kind
    assert error.message.startswith("the store cannot be read: ")
    assert hint in error.hint


def test_keys_in_addresses_are_taken_out() -> None:
    assert shown("s3://KEY:SE/CR@ET@b/x") == "s3://b/x"
    assert shown("s3://b/x?secret_key=SE/CRET&region=eu") == "s3://b/x?secret_key=...&region=eu"
    assert shown("'s3://KEY:SECRET@b/x', s3://b/y@z") == "'s3://b/x', s3://b/y@z"
    error = trouble("x", "cannot parse s3://KEY:SECRET@b", "")
    assert "SECRET" not in error.message
