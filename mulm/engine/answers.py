"""Runs requests to their end in this process, as fast as an engine's waiting line takes them.

Called by `Engine.generate_all`. Invariant: all requests are answered, each under its own id, or
the engine holds none of them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mulm.errors import ConflictError
from mulm.messages import GenerateRequest, TokenChunk, join_chunks

if TYPE_CHECKING:
    from mulm.engine.engine import Engine

Answers = dict[str, list[TokenChunk]]


def answer_all(engine: Engine, requests: Iterable[GenerateRequest]) -> Answers:
    """As `Engine.generate_all`."""
    if engine.n_unfinished:
        raise ConflictError(
            f"{engine.n_unfinished} requests that were added are being generated",
            hint="step until they have ended, or cancel them",
        )
    answers: Answers = {}
    try:
        _answer(engine, iter(requests), answers)
    except BaseException:  # one that cannot be taken, or Ctrl-C: the others go with it
        for request_id in answers:
            engine.cancel(request_id)
        raise
    for choices in answers.values():
        choices.sort(key=lambda choice: choice.index)
    return answers


def _answer(engine: Engine, source: Iterator[GenerateRequest], answers: Answers) -> None:
    waiting = next(source, None)
    parts: dict[tuple[str, int], list[TokenChunk]] = {}
    while waiting is not None or engine.n_unfinished:
        while waiting is not None and engine.can_add(waiting):
            if waiting.request_id in answers:  # perhaps it has ended, and none would miss it
                raise ConflictError(
                    f"two of the requests have the id {waiting.request_id!r}",
                    hint="answers are told by the ids of requests",
                )
            engine.add(waiting)
            answers[waiting.request_id] = []
            waiting = next(source, None)
        for chunk in engine.step():
            key = (chunk.request_id, chunk.index)
            parts.setdefault(key, []).append(chunk)
            if chunk.finish_reason:
                answers[chunk.request_id].append(join_chunks(parts.pop(key)))
