"""`/api/v1/models`, `/datasets`, `/tokenizers`: versions, what they are made of, their aliases."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mulm.config import Frozen
from mulm.errors import ConfigError, ConflictError, NotFoundError
from mulm.manifest import Kind
from mulm.model.stored_card import stored_card
from mulm.records import Version
from mulm.refs import Ref, check_alias, parse_ref
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, behind, page
from serve_app.control_api.precondition import (
    CHANGED,
    IfMatch,
    IfNoneMatch,
    PreconditionError,
    seen_before,
)


class _KindsConvertor(Convertor[str]):
    """Only these words are a path here; any other is nobody's, or another room's."""

    regex = "models|datasets|tokenizers"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("kinds", _KindsConvertor())
router = APIRouter(prefix="/api/v1", tags=["versions"], dependencies=ALL_SCOPE, responses=PROBLEMS)

Kinds = Literal["models", "datasets", "tokenizers"]
_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "tokenizers": "tokenizer"}


class AliasBody(Frozen):
    """Where an alias is to point."""

    version: Annotated[int, Field(strict=True, ge=1, lt=2**31)]


@router.get("/{kinds:kinds}")
def list_versions(
    kinds: Kinds,
    control: ControlDependency,
    name: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, Any]:
    """All versions of a kind, or of one name, newest first."""
    found = control.facts.versions(_KINDS[kinds], name)[::-1]
    return page(behind(found, after, lambda version: version.ref), limit, _described)


@router.get("/{kinds:kinds}/{ref}")
def get_version(kinds: Kinds, ref: str, control: ControlDependency) -> dict[str, Any]:
    """One version: what it was made from and of, its licences, its aliases."""
    kind = _KINDS[kinds]
    version = control.facts.resolve(kind, parse_ref(ref))
    manifest = control.store.load(version.manifest_id)
    aliases = control.facts.aliases(kind, version.name)
    return _described(version) | {
        "aliases": sorted(word for word, number in aliases.items() if number == version.number),
        "counts": manifest.counts,
        "licences": list(manifest.licences),
        "parents": {
            role: {
                "id": parent,
                "refs": [known.ref for known in control.facts.published_as(parent)],
            }
            for role, parent in manifest.parents.items()
        },
        "files": [{"name": b.name, "size_bytes": b.size_bytes} for b in manifest.blobs],
        "config": manifest.config,
        "code_version": manifest.code_version,
    }


@router.get("/models/{ref}/card", response_class=PlainTextResponse)
def get_card(ref: str, control: ControlDependency) -> Response:
    """What a model is and what it was made from, in Markdown, for people."""
    version = control.facts.resolve("model", parse_ref(ref))
    card = stored_card(control.store, version.ref, control.store.load(version.manifest_id))
    return PlainTextResponse(card, media_type="text/markdown")


@router.get("/{kinds:kinds}/{name}/aliases")
def list_aliases(kinds: Kinds, name: str, control: ControlDependency) -> dict[str, Any]:
    """The words that point to versions of a name."""
    kind = _KINDS[kinds]
    control.facts.resolve(kind, _bare(name))
    aliases = sorted(control.facts.aliases(kind, name).items())
    return page(aliases, len(aliases), lambda item: _alias(name, *item))


@router.get("/{kinds:kinds}/{name}/aliases/{alias}")
def get_alias(kinds: Kinds, name: str, alias: str, control: ControlDependency) -> JSONResponse:
    """Where an alias points, and where it has pointed before, the newest first."""
    return _told(control, _KINDS[kinds], name, alias)


@router.put("/{kinds:kinds}/{name}/aliases/{alias}", responses={412: CHANGED})
def put_alias(
    kinds: Kinds,
    name: str,
    alias: str,
    body: AliasBody,
    control: ControlDependency,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> JSONResponse:
    """Let an alias point to a version; what serves it follows.

    With `If-Match` only if it is still as its `ETag` says, with `If-None-Match: *` only if it is
    not there yet.
    """
    kind = _KINDS[kinds]
    check_alias(alias)
    only_from = seen_before(
        if_match, if_none_match, lambda: control.facts.aliases(kind, name).get(alias, 0)
    )
    try:
        control.facts.set_alias(kind, _bare(name).name, alias, body.version, only_from)
    except ConflictError as error:
        raise PreconditionError(error.message, hint=error.hint) from None
    return _told(control, kind, name, alias)


@router.delete("/{kinds:kinds}/{name}/aliases/{alias}", status_code=204, responses={412: CHANGED})
def delete_alias(
    kinds: Kinds, name: str, alias: str, control: ControlDependency, if_match: IfMatch = None
) -> Response:
    """Let an alias point nowhere; one that a deployment follows stays, and so does the history."""
    kind = _KINDS[kinds]
    now = control.facts.aliases(kind, _bare(name).name).get(alias, 0)
    only_from = seen_before(if_match, None, lambda: now)
    if only_from not in (None, now):
        raise PreconditionError(f"{name}@{alias} is not as its ETag says by now")
    control.facts.remove_alias(kind, name, alias, only_from)
    return Response(status_code=204)


def _told(control: Control, kind: Kind, name: str, alias: str) -> JSONResponse:
    number = control.facts.aliases(kind, name).get(alias)
    if number is None:
        raise NotFoundError(f"no alias {name}@{alias}")
    history = control.facts.alias_history(kind, name, alias)
    body = _alias(name, alias, number) | {
        "history": [
            {"ref": f"{name}@{past.number}" if past.number else None, "set_at": int(past.set_s)}
            for past in history
        ]
    }
    return JSONResponse(body, headers={"etag": f'"{number}"'})


def _bare(name: str) -> Ref:
    ref = parse_ref(name)
    if ref.version is not None or ref.alias is not None:
        raise ConfigError(f"aliases are of a name, not of {name!r}", param="name")
    return ref


def _described(version: Version) -> dict[str, Any]:
    return {
        "id": version.ref,
        "object": version.kind,
        "name": version.name,
        "version": version.number,
        "manifest_id": version.manifest_id,
        "created_at": int(version.created_s),
    }


def _alias(name: str, alias: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{name}@{alias}",
        "object": "alias",
        "alias": alias,
        "version": number,
        "ref": f"{name}@{number}",
    }
