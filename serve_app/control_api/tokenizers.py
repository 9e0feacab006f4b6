"""`/api/v1/tokenizers`: learn one; what one is; texts to token ids and back, by any of the store.

The build of a dataset learns one too; `serve_app.control_api.versions` lists them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.config import Frozen
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError
from mulm.lineage import lineage
from mulm.records import Version
from mulm.refs import parse_ref
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.runs import DONE_BEFORE, begun_once
from serve_app.openai_api.logprobs import TokenNames
from serve_app.service import ServiceDependency

router = APIRouter(
    prefix="/api/v1/tokenizers", tags=["tokenizers"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

MAX_IDS = 1 << 20
MAX_TEXTS = 1024


ConfigBody = Annotated[dict[str, Any], Body(max_length=64)]
"""`name`, `dataset`, `vocab_size`; checked where all configs are, for errors that help."""


class EncodeBody(Frozen):
    """Texts; what they spell is never a special token."""

    texts: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_TEXTS)]
    with_tokens: bool = False
    """Also what each id stands for; bytes that are no UTF-8 by themselves as `bytes:\\xe2`."""


class DecodeBody(Frozen):
    """Lists of token ids."""

    ids: Annotated[
        tuple[Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...],
                        Field(max_length=MAX_IDS)], ...],
        Field(min_length=1, max_length=MAX_TEXTS),
    ]  # fmt: skip


@router.post("", status_code=202, responses={200: DONE_BEFORE}, response_model=None)
def create_tokenizer(
    config: ConfigBody, control: ControlDependency, once: OnceDependency
) -> Response:
    """Learn a tokenizer from the documents of a dataset: a run, to which `Location` leads."""
    return begun_once(once, control, "train_tokenizer", config)


@router.get("/{ref}/vocabulary")
def get_vocabulary(ref: str, control: ControlDependency) -> dict[str, Any]:
    """How many tokens there are, which of them are special, and a fingerprint of the whole."""
    version, tokenizer = _opened(control, ref)
    return {
        "object": "tokenizer.vocabulary",
        "tokenizer": version.ref,
        "tokenizer_id": version.manifest_id,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "special_tokens": tokenizer.special_tokens,
    }


@router.get("/{ref}/lineage")
def get_lineage(ref: str, control: ControlDependency) -> dict[str, Any]:
    """What a version was made from, and what was made from it."""
    version = control.facts.resolve("tokenizer", parse_ref(ref))
    found = lineage(control.store, control.facts, version.manifest_id)
    return {"object": "lineage", **asdict(found)}


@router.post("/{ref}/encode")
async def encode(
    ref: str, body: EncodeBody, control: ControlDependency, service: ServiceDependency
) -> JSONResponse:
    """The ids of some texts, without the token that begins a document."""
    size_bytes = sum(map(len, body.texts))
    told = await service.background.run(size_bytes, _encoded, control, ref, body)
    return JSONResponse(told)


@router.post("/{ref}/decode")
async def decode(
    ref: str, body: DecodeBody, control: ControlDependency, service: ServiceDependency
) -> JSONResponse:
    """The texts of some ids; special ones have none, and bytes that are no UTF-8 become U+FFFD."""
    size = sum(map(len, body.ids))
    told = await service.background.run(size, _decoded, control, ref, body.ids)
    return JSONResponse(told)


def _opened(control: Control, ref: str) -> tuple[Version, Tokenizer]:
    version = control.facts.resolve("tokenizer", parse_ref(ref))
    manifest = control.store.load(version.manifest_id)
    content = control.store.read(manifest.blob("tokenizer.json"))
    return version, Tokenizer.from_bytes(content)


def _encoded(control: Control, ref: str, body: EncodeBody) -> dict[str, Any]:
    version, tokenizer = _opened(control, ref)
    all_ids = [tokenizer.encode(text) for text in body.texts]
    names = TokenNames(tokenizer)
    data = [
        {"ids": ids, "n_tokens": len(ids)}
        | ({"tokens": [names.name(token_id) for token_id in ids]} if body.with_tokens else {})
        for ids in all_ids
    ]
    return {"object": "list", "tokenizer": version.ref, "data": data}


def _decoded(control: Control, ref: str, all_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    version, tokenizer = _opened(control, ref)
    for place, ids in enumerate(all_ids):
        unknown = next((i for i in ids if i >= tokenizer.vocab_size), None)
        if unknown is not None:
            raise ConfigError(
                f"token id {unknown:.20g} is not in the vocabulary of {tokenizer.vocab_size}",
                param=f"ids.{place}",
            )
    data = [{"text": tokenizer.decode(ids)} for ids in all_ids]
    return {"object": "list", "tokenizer": version.ref, "data": data}
