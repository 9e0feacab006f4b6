"""`/v1/files`: what clients upload, to build datasets of it, to train on or to answer in batches.

Invariants: the bytes are a blob of the store before there is a row, and a row before the answer;
a name is a label, whatever it holds.
"""

import asyncio
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse, JSONResponse, Response

from mulm.errors import ConfigError, CorruptError, NotFoundError, nearest
from mulm.manifest import BlobEntry
from mulm.records import Claim, UserFile
from mulm.refs import new_id
from serve_app.checked_file import CheckedFile
from serve_app.control_api.control import ALL_SCOPE, Control, ControlDependency
from serve_app.control_api.idempotency import UploadOnceDependency
from serve_app.control_api.page import page
from serve_app.multipart import FormError
from serve_app.upload import Upload

router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=ALL_SCOPE)

UPLOADS = frozenset({("POST", "/v1/files")})
"""Routes that read their body themselves."""

Purpose = Literal["fine-tune", "batch", "user_data", "evals", "assistants"]
_ALL_PURPOSES = (*get_args(Purpose), "batch_output", "model_export")
"""Those of what runs make too."""
_MAX_LISTED = 10_000
_MAX_SHOWN_NAME = 255
_CHECKED_BEFORE_BYTES = 8 << 20
"""Up to this size a damaged file is told as an error, which takes its checksum first."""
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(get_args(Purpose))},
                    },
                }
            }
        },
    }
}


async def _max_upload_bytes(request: Request) -> int:
    limit: int = request.app.state.max_upload_bytes
    return limit


@router.post("", openapi_extra=_FORM, response_model=None)
async def create_file(
    request: Request,
    control: ControlDependency,
    max_bytes: Annotated[int, Depends(_max_upload_bytes)],
    once: UploadOnceDependency,
) -> Response:
    """Upload a file; what it is for is a label."""
    async with Upload(control.store, max_bytes, ("purpose",)) as upload:
        await upload.read(request)
        purpose = _purpose(upload.values.get("purpose"))
        sent = once.sent(upload.filename, purpose, upload.sha256)
        return await asyncio.to_thread(
            sent.answer,
            lambda claim: _made(control, upload, purpose, claim),
            lambda file_id, _: JSONResponse(_described(control.facts.file(file_id))),
        )


@router.get("")
def list_files(
    control: ControlDependency,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = _MAX_LISTED,
    after: Annotated[str | None, Query(max_length=128)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """All files, or those of one purpose, newest first."""
    found = control.facts.files(purpose, after, limit + 1, order == "desc")
    if purpose is not None and not found and purpose not in _ALL_PURPOSES:
        hint = nearest(purpose, _ALL_PURPOSES)
        raise ConfigError(f"no such purpose: {purpose!r}", hint=hint, param="purpose")
    return page(found, limit, _described)


@router.get("/{file_id}")
def get_file(file_id: str, control: ControlDependency) -> dict[str, Any]:
    """What is known of a file."""
    return _described(control.facts.file(file_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def get_content(file_id: str, control: ControlDependency) -> FileResponse:
    """The file's bytes, checked; a large file is checked while it goes, and cut short if damaged.

    Parts of a large one (`Range`) are not: compare its `sha256` when it is whole.
    """
    found, store = control.facts.file(file_id), control.store
    blob = BlobEntry(name=found.id, sha256=found.sha256, size_bytes=found.size_bytes)
    is_small = blob.size_bytes <= _CHECKED_BEFORE_BYTES
    try:
        path = store.path(blob) if is_small else store.unchecked_path(blob)
    except NotFoundError as error:  # a row promises its bytes: without them something is damaged
        raise CorruptError(error.message) from None
    headers = {"content-disposition": _attachment(found.name), "x-content-type-options": "nosniff"}
    return CheckedFile(path, found.sha256, headers, mend=lambda: store.path(blob))


@router.delete("/{file_id}")
def delete_file(file_id: str, control: ControlDependency) -> dict[str, Any]:
    """Forget a file. A run that has begun with it goes on with its bytes."""
    control.facts.remove_file(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _made(control: Control, upload: Upload, purpose: str, claim: Claim | None) -> JSONResponse:
    blob, name = upload.keep(), upload.filename
    file = control.facts.add_file(
        new_id("file"), name, purpose, blob.size_bytes, blob.sha256, claim
    )
    return JSONResponse(_described(file))


def _purpose(given: str | None) -> str:
    if given is None:
        raise FormError("the form has no purpose", param="purpose")
    if given not in get_args(Purpose):
        hint = nearest(given[:64], get_args(Purpose))
        raise FormError(f"no such purpose: {given[:64]!r}", hint=hint, param="purpose")
    return given


def _described(file: UserFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "expires_at": None,
        "filename": file.name,
        "purpose": file.purpose,
        "sha256": file.sha256,
        "status": "processed",
        "status_details": None,
    }


def _attachment(name: str) -> str:
    """What a browser saves it as, as far as a name can be one."""
    if len(name) > _MAX_SHOWN_NAME:
        return "attachment"
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
