"""`POST /v1/completions`: goes on with a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from mulm.data.tokenizer import Tokenizer
from mulm.messages import TokenLogprob
from serve_app.caller import WaitingDependency
from serve_app.openai_api.answer import answer
from serve_app.openai_api.asked import Asked, cut, require_few, require_room, size_of
from serve_app.openai_api.choices import Delta
from serve_app.openai_api.finished import Finished
from serve_app.openai_api.logprobs import LegacyLogprobs, TokenNames, joined
from serve_app.openai_api.schemas import CompletionBody
from serve_app.openai_api.stream import STREAMED
from serve_app.served import Served
from serve_app.service import ServiceDependency

router = APIRouter()

_DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client gave, and how many tokens stand before it that he did not."""

    ids: Sequence[int]
    text: str
    n_added: int


class CompletionFormat:
    """Choices that hold `text`, after an echo of the prompt if that was asked for."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, body: CompletionBody, prompts: Sequence[Prompt], tokenizer: Tokenizer):
        self._body, self._prompts, self._tokenizer = body, prompts, tokenizer
        self._names = TokenNames(tokenizer)
        self._logprobs: dict[int, LegacyLogprobs] = {}

    def choice(self, finished: Finished) -> dict[str, Any]:
        """As `Format.choice`."""
        whole = Delta(
            finished.index, finished.text, tuple(finished.token_ids), None,
            tuple(finished.logprobs), finished.prompt_logprobs,
        )  # fmt: skip
        return self._write(whole, finished.finish_reason)

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        """As `Format.chunk_choices`."""
        is_first = delta.index not in self._logprobs
        if not (delta.text or delta.finish_reason or delta.token_ids or is_first):
            return []
        return [self._write(delta, delta.finish_reason)]

    def _write(self, delta: Delta, reason: str | None) -> dict[str, Any]:
        prompt = self._prompts[delta.index // self._body.n_choices]
        is_first = delta.index not in self._logprobs
        writer = self._logprobs.setdefault(
            delta.index, LegacyLogprobs(self._tokenizer, self._names)
        )
        echo = prompt.text if is_first and self._body.echo else ""
        logprobs = None
        if self._body.logprobs is not None:
            pieces = []
            if is_first and self._body.echo:
                known = delta.prompt_logprobs[prompt.n_added :]
                pieces.append(self._piece(writer, known, prompt.ids[prompt.n_added :]))
            pieces.append(self._piece(writer, delta.logprobs, delta.token_ids))
            logprobs = joined(pieces)
        return {
            "index": delta.index,
            "text": echo + delta.text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _piece(
        self, writer: LegacyLogprobs, items: Sequence[TokenLogprob | None], ids: Sequence[int]
    ) -> dict[str, Any]:
        return writer.piece(items, ids, bool(self._body.logprobs))


@router.post("/v1/completions", response_model=None, responses=STREAMED)
async def create_completion(
    body: CompletionBody, service: ServiceDependency, caller: WaitingDependency
) -> Response:
    """Complete one or more prompts."""
    served = service.model(body.model, caller.key)
    tokenizer = served.tokenizer
    texts = [item for item in _given(body) if isinstance(item, str)]
    prompts = await service.background.run(size_of(texts), encode_prompts, body, served)
    grammar, grammar_param = body.held
    asked = Asked(
        body,
        [prompt.ids for prompt in prompts],
        () if _is_scored(body) else tokenizer.text_stop_ids,
        "prompt",
        grammar,
        grammar_param,
        wants_prompt_logprobs=bool(body.echo),
        default_max_tokens=_DEFAULT_MAX_TOKENS,
    )
    form = CompletionFormat(body, prompts, tokenizer)
    return await answer(served, asked, form, caller)


def _is_scored(body: CompletionBody) -> bool:
    """Whether the prompt's log-probabilities are wanted, as evaluation tools ask for them.

    They pass over the one new token, so there must be one, even where the model would end here.
    """
    return bool(body.echo) and body.logprobs is not None and body.max_tokens == 1


def _given(body: CompletionBody) -> Sequence[str | int | Sequence[int]]:
    return [body.prompt] if isinstance(body.prompt, str) else body.prompt


def encode_prompts(body: CompletionBody, served: Served) -> list[Prompt]:
    """Token ids of each prompt.

    Texts begin a document, as in training: `<|endoftext|>` stands before them. Ids are taken as
    they are.

    Raises:
        ConfigError: they are too many.
        ContextLengthError: one is too long, by far.
    """
    given = _given(body)
    tokenizer = served.tokenizer
    ids = [item for item in given if isinstance(item, int)]
    if ids:
        return [_of_ids(ids, body, tokenizer)]
    require_few(len(given), body.n_best_of, "prompt")
    if body.truncate_prompt_tokens is None:
        for item in given:
            require_room([item] if isinstance(item, str) else [], served, "prompt")
    return [
        _of_text(item, body, tokenizer) if isinstance(item, str) else _of_ids(item, body, tokenizer)
        for item in given
        if not isinstance(item, int)
    ]


def _of_text(text: str, body: CompletionBody, tokenizer: Tokenizer) -> Prompt:
    ids = [tokenizer.end_of_text_id, *tokenizer.encode(text)]
    if len(cut(ids, body)) < len(ids):
        return _of_ids(ids, body, tokenizer)
    return Prompt(ids, text, 1)


def _of_ids(ids: Sequence[int], body: CompletionBody, tokenizer: Tokenizer) -> Prompt:
    kept = cut(ids, body)
    return Prompt(kept, tokenizer.decode(kept) if body.echo else "", 0)
