"""`/api/v1/audit`: who has changed what, and when."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from mulm.accounts import AuditRow
from mulm.errors import NotFoundError
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, page

router = APIRouter(
    prefix="/api/v1/audit", tags=["audit"], dependencies=ALL_SCOPE, responses=PROBLEMS
)


@router.get("")
def list_audit(
    control: ControlDependency,
    who: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, Any]:
    """Every change that was asked for, the newest first; those of one key with `who`."""
    found = control.facts.audit(who, _seq(after), limit + 1)
    return page(found, limit, _described)


def _seq(after: str | None) -> int | None:
    if after is None:
        return None
    number = after.removeprefix("audit_")
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise NotFoundError(f"there is no {after!r} in this list", param="after")
    return int(number)


def _described(row: AuditRow) -> dict[str, Any]:
    return {
        "id": f"audit_{row.seq}",
        "object": "audit",
        "created_at": row.time_s,
        "who": row.who,
        "request_id": row.request_id,
        "method": row.method,
        "route": row.route,
        "subject": row.subject,
        "outcome": row.outcome,
    }
