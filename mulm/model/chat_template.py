"""Chat templates in Jinja, as foreign programs read them, beside our own `mulm.chat.render`.

Called before an export and when a model is imported. A template is text from strangers: it is
rendered in Jinja's sandbox, in a process with limits, and gets messages alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mulm.chat import Message, render
from mulm.data.tokenizer import Tokenizer
from mulm.errors import DataError
from mulm.model import jinja_child

Verdict = Literal["none", "same", "other", "broken"]
"""Of a foreign template: whether it gives our ids, others, or does not render at all."""

_TIMEOUT_S = 30.0
SAMPLE = (
    Message(role="user", content="Who are you?"),
    Message(role="assistant", content="A model.\nA small one."),
    Message(role="user", content="  Thank you!\n"),
)

_SYSTEM = Message(role="system", content="Be brief.")


def render_template(
    template: str,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The ids that a program gets which renders `template` and recognises special tokens.

    Raises:
        DataError: the template does not render.
    """
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    text = _render_apart(
        template,
        {
            "messages": [message.model_dump() for message in messages],
            "tools": list(tools) or None,
            "add_generation_prompt": True,
            "bos_token": names[tokenizer.end_of_text_id],
            "eos_token": names[tokenizer.turn_end_id],
        },
    )
    return encode_with_special(text, tokenizer)


def judge_template(template: str | None, tokenizer: Tokenizer) -> Verdict:
    """How a foreign template compares to the one with which we serve; see `Verdict`."""
    if template is None:
        return "none"
    # By itself first: many templates put a system message before it that nobody wrote.
    for messages in (SAMPLE, (_SYSTEM, *SAMPLE)):
        ours = render(messages, tokenizer)
        try:
            theirs = render_template(template, messages, tokenizer)
        except DataError:
            return "broken"
        if theirs not in (ours, [tokenizer.end_of_text_id, *ours]):
            return "other"
    return "same"


def encode_with_special(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text in which special tokens are recognised; for templates' texts alone."""
    ids: list[int] = []
    special = tokenizer.special_tokens
    longest_first = sorted(special, key=len, reverse=True)
    for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
        ids += [special[part]] if part in special else tokenizer.encode(part)
    return ids


def _render_apart(template: str, variables: Mapping[str, Any]) -> str:
    order = json.dumps({"template": template, "variables": dict(variables)})
    command = [sys.executable, "-P", jinja_child.__file__]
    try:
        done = subprocess.run(  # noqa: S603 - a file of ours
            command, input=order, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        answer = {"error": "it takes too much time or memory"}
    if "error" in answer:
        raise DataError(
            f"the chat template does not render: {answer['error']}",
            hint="it is a Jinja template over `messages` and `add_generation_prompt`",
        )
    return str(answer["text"])
