"""`/api/v1/usage`: what keys have used, by model and by hour or day."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from mulm.accounts import HOUR_S, UsageRow
from mulm.errors import ConfigError
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency
from serve_app.control_api.page import After, behind, page

router = APIRouter(
    prefix="/api/v1/usage", tags=["usage"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

_DAY_S = 24 * HOUR_S
_BUCKETS = {"hour": HOUR_S, "day": _DAY_S}
_SHOWN = {"hour": 7 * _DAY_S, "day": 90 * _DAY_S}
"""How far back it goes where nobody says."""

Moment = Annotated[int | None, Query(ge=0, lt=2**40)]


@router.get("")
def list_usage(
    control: ControlDependency,
    key: Annotated[str | None, Query(max_length=64)] = None,
    model: Annotated[str | None, Query(max_length=64)] = None,
    from_: Annotated[int | None, Query(alias="from", ge=0, lt=2**40)] = None,
    to: Moment = None,
    bucket: Literal["hour", "day"] = "hour",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> dict[str, Any]:
    """Requests and tokens by key and model in stretches of UTC hours or days, in order of time.

    `from` and `to` are seconds of Unix time; without them it is the last week, by days the last 90
    days. What was used in the last seconds may not be there yet.
    """
    now_s = int(time.time())
    begin_s = max(0, (now_s if to is None else to) - _SHOWN[bucket]) if from_ is None else from_
    if to is not None and to <= begin_s:
        raise ConfigError(f"nothing lies between {begin_s} and {to}", param="to")
    found = control.facts.usage(key, model, begin_s, to, _BUCKETS[bucket])
    return page(behind(found, after, _id), limit, _described)


def _id(row: UsageRow) -> str:
    return f"{row.start_s}/{row.key_id}/{row.model}"


def _described(row: UsageRow) -> dict[str, Any]:
    return {
        "id": _id(row),
        "object": "usage",
        "start_at": row.start_s,
        "key": row.key_id,
        "model": row.model,
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    }
