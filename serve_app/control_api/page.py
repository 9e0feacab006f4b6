"""Pages of lists, in OpenAI's shape, so that the pagers of its clients work on them.

Used by all routes that list. Invariant: `after` is the id of the last item that a client has seen;
what comes before it in the list's order is never shown again.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from mulm.errors import NotFoundError

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=128)]
DEFAULT_LIMIT = 20


def page(found: Sequence[T], limit: int, describe: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """One page out of items of which one more than `limit` was asked for."""
    data = [describe(item) for item in found[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }


def behind(items: Sequence[T], after: str | None, id_of: Callable[[T], str]) -> Sequence[T]:
    """The items behind the one of that id. Raises NotFoundError."""
    if after is None:
        return items
    for at, item in enumerate(items):
        if id_of(item) == after:
            return items[at + 1 :]
    raise NotFoundError(f"there is no {after!r} in this list", param="after")
