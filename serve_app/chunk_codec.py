"""Tokens on their way between two processes: each chunk a line of JSON, short where it is plain.

Called by `serve_app.engine_link` and `serve_app.ingress_links`. Invariant: what is read equals what
was written; reading runs no code, whoever wrote it.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

from mulm.messages import TokenChunk, TokenLogprob


def encode_chunk(chunk: TokenChunk) -> bytes:
    """One line, without its end."""
    parts: list[Any] = [chunk.request_id, chunk.token_ids, chunk.finish_reason, chunk.index]
    if chunk.logprobs or chunk.prompt_logprobs or chunk.n_cached_tokens or chunk.embedding:
        parts.append([astuple(item) for item in chunk.logprobs])
        parts.append([item and astuple(item) for item in chunk.prompt_logprobs])
        parts += [chunk.n_cached_tokens, chunk.embedding]
    return json.dumps(parts, separators=(",", ":")).encode()


def decode_chunk(line: bytes) -> TokenChunk:
    """What `encode_chunk` wrote."""
    request_id, token_ids, reason, index, *rest = json.loads(line)
    if not rest:
        return TokenChunk(request_id, tuple(token_ids), reason, index)
    logprobs, prompt_logprobs, n_cached_tokens, embedding = rest
    return TokenChunk(
        request_id, tuple(token_ids), reason, index,
        tuple(_logprob(item) for item in logprobs),
        tuple(item and _logprob(item) for item in prompt_logprobs),
        n_cached_tokens, tuple(embedding),
    )  # fmt: skip


def _logprob(parts: list[Any]) -> TokenLogprob:
    token_id, logprob, top = parts
    return TokenLogprob(token_id, logprob, tuple((other, value) for other, value in top))
