"""Changes that happen only to what a client has seen: `If-Match` and `If-None-Match`.

Used by routes whose objects carry an `ETag`, which is a number. Invariant: of two clients that
change the same, the second is told so.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header

from mulm.errors import ConfigError, ConflictError
from serve_app.control_api.control import PROBLEM

IfMatch = Annotated[str | None, Header(max_length=64)]
IfNoneMatch = Annotated[str | None, Header(max_length=64)]

CHANGED: dict[str, Any] = {
    "description": "It is not as `If-Match` or `If-None-Match` says.",
    "content": PROBLEM,
}
"""For routes: the answer 412."""

_ANY = "*"
_NUMBER = re.compile(r"[0-9]{1,18}")


class PreconditionError(ConflictError):
    """Something is not as the client has seen it."""

    code = "precondition_failed"


def seen_before(
    if_match: str | None, if_none_match: str | None, now: Callable[[], int]
) -> int | None:
    """The number that must still be true: None for any, 0 for an object that must not be there.

    Args:
        if_match: One ETag, several with commas, or `*` for an object that is there.
        if_none_match: Can only be `*`.
        now: Tells the object's number, 0 where it is not there.

    Raises:
        ConfigError: the headers mean nothing.
        PreconditionError: it is no number of ours, or none of several is the object's.
    """
    if if_none_match is not None:
        if if_none_match != _ANY or if_match is not None:
            raise ConfigError("If-None-Match can only be *, alone", param="If-None-Match")
        return 0
    if if_match is None:
        return None
    tags = [tag.strip().strip('"') for tag in if_match.split(",")]
    numbers = [int(tag) for tag in tags if _NUMBER.fullmatch(tag)]
    if len(tags) == len(numbers) == 1:
        return numbers[0]
    number = now()
    if number and (tags == [_ANY] or number in numbers):
        return number
    raise PreconditionError(f"it is not there with such an ETag: {if_match[:32]!r}")
