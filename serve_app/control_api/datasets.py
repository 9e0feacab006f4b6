"""`/api/v1/datasets`: build them; what is in them; what needs no name loses it."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from starlette.responses import Response

from mulm.data.removal import take_away
from mulm.data.shelf import Shelf
from mulm.data.views import (
    PreviewOrder,
    diff,
    preview,
    rejects,
    rejects_behind,
    stats,
)
from mulm.errors import ConfigError
from mulm.refs import parse_ref
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, Limit, page
from serve_app.control_api.runs import DONE_BEFORE, begun_once

router = APIRouter(
    prefix="/api/v1/datasets", tags=["datasets"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

RecipeBody = Annotated[dict[str, Any], Body(max_length=64)]
"""A recipe as in a file; checked where all recipes are, so that errors name the nearest key."""
Word = Annotated[str | None, Query(max_length=128)]
Seed = Annotated[int, Query(ge=0, lt=2**63)]
_MAX_SHOWN = 100
_MAX_CHARS = 100_000


@router.post("", status_code=202, responses={200: DONE_BEFORE}, response_model=None)
def create_dataset(
    recipe: RecipeBody, control: ControlDependency, once: OnceDependency
) -> Response:
    """Build a dataset of uploaded files: a run of the kind `prepare`, to which `Location` leads."""
    return begun_once(once, control, "prepare", recipe)


@router.get("/{ref}/preview")
def get_preview(
    ref: str,
    control: ControlDependency,
    n: Annotated[int, Query(ge=1, le=_MAX_SHOWN)] = 3,
    split: Literal["train", "validation"] | None = None,
    source: Word = None,
    grep: Annotated[str, Query(max_length=1000)] = "",
    tokens: bool = True,
    chars: Annotated[int, Query(ge=1, le=_MAX_CHARS)] = 1200,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Some documents as training reads them: tokens with their ids, and which are learned.

    The same ones for the same seed. With `tokens=false` their text alone.
    """
    shelf = _shelf(control)
    order = PreviewOrder(n, split, seed, grep, source, tokens, tokens, chars)
    return {"object": "list", "data": preview(shelf, shelf.find(ref), order), "has_more": False}


@router.get("/{ref}/stats")
def get_stats(ref: str, control: ControlDependency) -> dict[str, Any]:
    """Histograms: lengths, tokens, languages, sources, and why documents were dropped."""
    shelf = _shelf(control)
    found = shelf.find(ref)
    return {"object": "dataset.stats", "dataset": found.ref, **asdict(stats(shelf, found))}


@router.get("/{ref}/rejects")
def get_rejects(
    ref: str,
    control: ControlDependency,
    n: Annotated[int, Query(ge=0, le=_MAX_SHOWN)] = 5,
    seed: Seed = 0,
) -> dict[str, Any]:
    """What was dropped: how many for each reason, and samples of each."""
    shelf = _shelf(control)
    return {"object": "dataset.rejects", **rejects(shelf, shelf.find(ref), None, n, seed)}


@router.get("/{ref}/rejects/{reason}")
def list_rejects(
    ref: str,
    reason: Annotated[str, Path(max_length=128)],
    control: ControlDependency,
    limit: Limit = DEFAULT_LIMIT,
    after: Annotated[int, Query(ge=-1, lt=2**62)] = -1,
) -> dict[str, Any]:
    """All that was dropped for one reason, in order; with what it repeats, if that is why."""
    shelf = _shelf(control)
    told = rejects_behind(shelf, shelf.find(ref), reason, after, limit + 1)
    return page(told, limit, lambda document: {"id": str(document["number"]), **document})


@router.get("/{ref}/diff")
def get_diff(
    ref: str,
    other: Annotated[str, Query(max_length=128)],
    control: ControlDependency,
    n: Annotated[int, Query(ge=0, le=_MAX_SHOWN)] = 3,
) -> dict[str, Any]:
    """From a version to another one: settings, files and documents that differ, what they share."""
    shelf = _shelf(control)
    return {"object": "dataset.diff", **diff(shelf, shelf.find(ref), shelf.find(other), n)}


@router.get("/{ref}/lineage")
def get_lineage(ref: str, control: ControlDependency) -> dict[str, Any]:
    """What a version was made from, and what was made from it."""
    return {"object": "lineage", **asdict(_shelf(control).relatives(ref))}


@router.delete("/{ref}")
def delete_dataset(ref: str, control: ControlDependency) -> dict[str, Any]:
    """Take the name `books@2` away, and that of the tokenizer that was trained for it alone.

    Refused while an alias points to it, a model was made from it, or a run reads it that has not
    ended. Its files go when `mulm gc` finds that nothing needs them.
    """
    if parse_ref(ref).version is None:
        raise ConfigError(
            f"{ref!r} may mean another version tomorrow", hint="such as books@2", param="ref"
        )
    shelf = _shelf(control)
    nameless = take_away(shelf, ref, control.facts.remove_versions)
    version = nameless[0]
    return {
        "id": version.ref,
        "object": "dataset",
        "manifest_id": version.manifest_id,
        "deleted": True,
        "removed": [{"kind": gone.kind, "ref": gone.ref} for gone in nameless],
    }


def _shelf(control: Control) -> Shelf:
    return Shelf(control.facts, control.store)
