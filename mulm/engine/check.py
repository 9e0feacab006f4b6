"""Whether a request can be generated at all.

Called by the engine before it takes one. Invariant: what passes needs no more tokens than the
window and no more pages than there are, so it cannot wait for ever.
"""

from __future__ import annotations

import math

from mulm.engine.pages import pages_for
from mulm.errors import ConfigError, ContextLengthError
from mulm.messages import GenerateRequest

_MOST_CHOICES = 1024
"""Of one request: each is a sequence with the prompt's ids, and is made before it waits."""
_LARGEST = 1e6
"""What a number may be so that fp32 logits stay finite; NaN is not."""


def check_request(
    request: GenerateRequest, vocab_size: int, max_seq_len: int, n_pages: int
) -> None:
    """Refuse what is impossible.

    Raises:
        ContextLengthError: prompt and `max_tokens` exceed the window, or all pages.
        ConfigError: another value is impossible; `param` names it.
    """
    _check_length(request, max_seq_len, n_pages)
    _check_choices(request)
    _check_sampling(request, vocab_size)
    _check_ids("prompt", request.prompt_ids, vocab_size)
    _check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias], vocab_size)
    _check_ids("stop_token_ids", request.sampling.stop_token_ids, vocab_size)


def _check_length(request: GenerateRequest, max_seq_len: int, n_pages: int) -> None:
    n_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
    has_other_use = request.is_embedding or request.sampling.prompt_logprobs is not None
    if not n_prompt or max_tokens < (0 if has_other_use else 1):
        raise ConfigError(
            "a request needs at least one prompt token and one new token",
            param="max_tokens" if n_prompt else "prompt",
        )
    if n_prompt + max_tokens > max_seq_len:
        raise ContextLengthError(
            f"the prompt has {n_prompt} tokens and {max_tokens} more were asked for,"
            f" but the model's window is {max_seq_len} tokens",
            hint="shorten the prompt or ask for fewer tokens",
        )
    if pages_for(n_prompt + max(max_tokens, 1)) > n_pages:
        raise ContextLengthError(
            f"{n_prompt + max_tokens} tokens need more memory than this engine has for all",
            hint="shorten the prompt or ask for fewer tokens",
        )


def _check_choices(request: GenerateRequest) -> None:
    for param, n in (("n", request.n), ("best_of", request.best_of)):
        if not 1 <= n <= _MOST_CHOICES:
            raise ConfigError(
                f"{param} is {n}, and a request has 1 to {_MOST_CHOICES} choices",
                hint="ask for more of them in further requests",
                param=param,
            )
    if 1 < request.best_of < request.n:
        raise ConfigError("best_of must not be smaller than n", param="best_of")


def _check_sampling(request: GenerateRequest, vocab_size: int) -> None:
    p = request.sampling
    wrong = {
        "temperature": not 0 <= p.temperature <= _LARGEST,
        "top_p": not 0 < p.top_p <= 1,
        "top_k": p.top_k < 0,
        "min_p": not 0 <= p.min_p <= 1,
        "repetition_penalty": not 1 / _LARGEST <= p.repetition_penalty <= _LARGEST,
        "presence_penalty": not abs(p.presence_penalty) <= _LARGEST,
        "frequency_penalty": not abs(p.frequency_penalty) <= _LARGEST,
        "logit_bias": not all(abs(bias) <= _LARGEST for _, bias in p.logit_bias),
        "min_tokens": not 0 <= p.min_tokens <= max(p.max_tokens, 0),
        "logprobs": not 0 <= (p.logprobs or 0) <= vocab_size,
        "prompt_logprobs": not 0 <= (p.prompt_logprobs or 0) <= vocab_size,
        "stop": "" in p.stops,
        "deadline_s": math.isnan(request.deadline_s),
    }
    for param, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(f"{param} has an impossible value", param=param)


def _check_ids(param: str, ids: tuple[int, ...] | list[int], vocab_size: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ConfigError(
            f"{param} holds a token id outside the vocabulary",
            hint=f"ids go from 0 to {vocab_size - 1}",
            param=param,
        )
