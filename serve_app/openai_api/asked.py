"""From a body to the requests that an engine understands.

Called by the routes. Invariant: what is made here fits the model's window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mulm.chat import Message
from mulm.chat_format import CALL_BEGIN
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, ContextLengthError, MulmError
from mulm.messages import GenerateRequest, Grammar, SamplingParams
from serve_app.openai_api.schemas import MAX_SEQUENCES, Generation
from serve_app.openai_api.text import TextStream
from serve_app.served import Served


def size_of(texts: Iterable[str]) -> int:
    """Bytes of texts."""
    return sum(len(text.encode()) for text in texts)


def require_room(texts: Sequence[str], served: Served, param: str) -> None:
    """Refuse what cannot fit, before it is encoded.

    Raises:
        ContextLengthError: the window cannot hold so much text, however it is encoded.
    """
    n_bytes = size_of(texts)
    if n_bytes > served.max_seq_len * served.tokenizer.longest_bytes:
        raise ContextLengthError(
            f"the model's window is {served.max_seq_len} tokens, and {n_bytes} bytes are more",
            hint="shorten the prompt",
            param=param,
        )


def require_room_for_turns(turns: Sequence[Message], served: Served, param: str) -> None:
    """Refuse a conversation that cannot fit, before it is encoded.

    Raises:
        ContextLengthError: as `require_room`; each turn has a token at least.
    """
    if len(turns) > served.max_seq_len:
        raise ContextLengthError(
            f"the model's window is {served.max_seq_len} tokens, and {len(turns)} turns are more",
            hint="leave out the oldest",
            param=param,
        )
    require_room(texts_of(turns), served, param)


def texts_of(turns: Sequence[Message]) -> list[str]:
    """All that clients wrote in a conversation."""
    calls = [call.arguments for turn in turns for call in turn.tool_calls]
    return [*(turn.content for turn in turns), *calls]


@contextmanager
def named_by_client(**names: str) -> Iterator[None]:
    """Errors blame a parameter by the name that it has in the client's body."""
    try:
        yield
    except MulmError as error:
        param = error.details.get("param")
        if param in names:
            error.details["param"] = names[str(param)]
        raise


def require_few(n_prompts: int, n_choices: int, param: str) -> None:
    """Refuse more than are answered at a time. Raises ConfigError."""
    if n_prompts * n_choices > MAX_SEQUENCES:
        raise ConfigError(
            f"{n_prompts} prompts with {n_choices} choices each are too many",
            hint=f"at most {MAX_SEQUENCES} in all",
            param=param if n_prompts > MAX_SEQUENCES else "n",
        )


def cut(ids: Sequence[int], body: Generation) -> Sequence[int]:
    """The end of a prompt, where the client wants no more of it."""
    return ids if body.truncate_prompt_tokens is None else ids[-body.truncate_prompt_tokens :]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants of each of its prompts.

    Args:
        body: Sampling and streaming options.
        prompts: Token ids.
        stop_token_ids: End a choice without being part of it.
        grammar: What answers are held to, if not what `body` says.
        may_call: Whether tools may be called; then stop strings end what is said before calls,
            which only who reads the text can tell.
        wants_prompt_logprobs: Whether the prompt's own log-probabilities are told too.
        default_max_tokens: New tokens where the client does not say; None is what the window
            leaves.
        prompt_param: What the client calls its prompts.
    """

    body: Generation
    prompts: Sequence[Sequence[int]]
    stop_token_ids: tuple[int, ...]
    prompt_param: str
    grammar: Grammar | None = None
    grammar_param: str = "structured_outputs"
    may_call: bool = False
    wants_prompt_logprobs: bool = False
    default_max_tokens: int | None = None

    def requests(self, served: Served, request_id: str, timeout_s: float) -> list[GenerateRequest]:
        """One for each prompt; its choices follow each other.

        Each has `timeout_s` or the application's own time, whichever is shorter.

        Raises:
            ContextLengthError: a prompt does not fit.
        """
        return [
            self._request(served, ids, f"{request_id}-{number}", timeout_s)
            for number, ids in enumerate(self.prompts)
        ]

    def _request(
        self, served: Served, ids: Sequence[int], request_id: str, timeout_s: float
    ) -> GenerateRequest:
        body = self.body
        max_tokens = self._max_tokens(len(ids), served.max_seq_len)
        if (body.min_tokens or 0) > max_tokens:
            raise ConfigError(
                f"min_tokens is {body.min_tokens}, more than the {max_tokens} that may come",
                hint=f"lower it, or raise {body.limit_param}",
                param="min_tokens",
            )
        return GenerateRequest(
            request_id,
            tuple(ids),
            self._sampling(max_tokens),
            min(served.request_timeout_s, timeout_s),
            timeout_s < served.request_timeout_s,
            n=body.n_choices,
            best_of=body.n_best_of,
            adapter=served.adapter_id,
        )

    def text(self, tokenizer: Tokenizer) -> TextStream:
        """Reads one choice."""
        body = self.body
        mark = CALL_BEGIN if self.may_call else ""
        return TextStream(tokenizer, body.stops, body.min_tokens or 0, mark)

    def _sampling(self, max_tokens: int) -> SamplingParams:
        body = self.body
        eos = () if body.ignore_eos else self.stop_token_ids
        # A prompt from which nothing is generated is read for its log-probabilities.
        prompt_logprobs = body.n_logprobs if self.wants_prompt_logprobs else None
        if prompt_logprobs is None and not max_tokens:
            prompt_logprobs = 0
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(body.top_k or 0, 0),
            min_p=body.min_p or 0.0,
            seed=body.seed,
            stop_token_ids=tuple(dict.fromkeys([*eos, *(body.stop_token_ids or ())])),
            repetition_penalty=body.repetition_penalty or 1.0,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=tuple((body.logit_bias or {}).items()),
            min_tokens=body.min_tokens or 0,
            stops=() if self.may_call else body.stops,
            logprobs=body.n_logprobs,
            prompt_logprobs=prompt_logprobs,
            grammar=self.grammar,
        )

    def _max_tokens(self, n_prompt: int, window: int) -> int:
        left, limit, param = window - n_prompt, self.body.limit, self.body.limit_param
        if left < (0 if limit == 0 else 1):
            raise ContextLengthError(
                f"the model's window is {window} tokens; the prompt has {n_prompt}",
                hint=f"{'set' if self.body.truncate_prompt_tokens is None else 'lower'}"
                " truncate_prompt_tokens, or shorten the prompt",
                param=self.prompt_param,
            )
        if limit is None:
            return min(self.default_max_tokens or left, left)
        if limit > left:
            raise ContextLengthError(
                f"the model's window is {window} tokens; the prompt has {n_prompt}"
                f" and {limit} more were asked for",
                hint=f"shorten the prompt or lower {param}",
                param=param,
            )
        return limit
