"""Questions as token ids: where the context ends, and what begins it.

Called by `mulm.eval.scoring`. Needs no torch. Invariant: the ids are those that
lm-evaluation-harness gives the exported model: context and continuation are encoded as one text and
cut at the context's length, white space at the context's end belongs to the continuation, an empty
context is the token that begins documents, and any other begins with it where the tokenizer's own
post-processing says so. Text that spells a special token is read as those characters, here alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer as Backend

from mulm.data.tokenizer import Tokenizer
from mulm.eval.suites.base import Continuation


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """How likely are `target_ids` after `context_ids`? Both hold at least one id."""

    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


class Encoder:
    """Encodes for one model.

    Args:
        tokenizer: The model's.
        add_bos: Whether a context begins with the token that begins documents; None is what the
            tokenizer's post-processing does when it is loaded elsewhere.
    """

    def __init__(self, tokenizer: Tokenizer, add_bos: bool | None = None) -> None:
        self._tokenizer = tokenizer
        begin = tokenizer.end_of_text_id
        self._prefix = [begin]
        self._begin = _own_prefix(tokenizer) if add_bos is None else [begin] * add_bos

    def prompt(self, text: str) -> list[int]:
        """The ids of a text that will be continued; at least one."""
        return [*self._begin, *self._tokenizer.encode(text)] or self._prefix

    def question(self, asked: Continuation) -> TokenQuestion:
        """The ids of a context and its continuation."""
        context = asked.context.rstrip()
        text = asked.context[len(context) :] + asked.text
        if not context:
            return TokenQuestion(tuple(self._prefix), tuple(self._tokenizer.encode(text)))
        context_ids = self._tokenizer.encode(context)
        target_ids = self._tokenizer.encode(context + text)[len(context_ids) :]
        # A merge may swallow the border; what is left must still be a question.
        target_ids = target_ids or self._tokenizer.encode(text)
        return TokenQuestion((*self._begin, *context_ids), tuple(target_ids))


def _own_prefix(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer itself puts before every text."""
    backend = Backend.from_str(tokenizer.to_bytes().decode())
    whole: list[int] = backend.encode("a", add_special_tokens=True).ids
    bare: list[int] = backend.encode("a", add_special_tokens=False).ids
    return next(whole[:n] for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
