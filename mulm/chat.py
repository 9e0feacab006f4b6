"""The chat template: messages to token ids, and to the loss mask for training.

Called by the ingress and by the dataset build; `CHAT_TEMPLATE` is the same template for
those who load an exported model. Invariant: only the template writes special ids; a message
that spells `<|im_end|>` is read as those characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from mulm.config import Frozen
from mulm.data.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
EXPORTED_TEMPLATE = "{{ bos_token }}" + CHAT_TEMPLATE
"""What stands in exported models: a conversation is a document, as it is served here too."""


class Message(Frozen):
    """One turn of a conversation."""

    role: Role
    content: str


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = True
) -> list[int]:
    """The ids of a conversation; with the prompt, the model's turn is next."""
    ids = render_training(messages, tokenizer)[0]
    if add_generation_prompt:
        ids += [tokenizer.im_start_id, *tokenizer.encode("assistant\n")]
    return ids


def render_training(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and for each id whether the model learns to say it.

    Returns:
        Ids and loss mask, of one length. The mask is 1 on what the assistant says and on the
        `<|im_end|>` after it, 0 on roles, other speakers and line ends between turns.
    """
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        # One text, so that its ids are those of the exported template.
        text_ids = tokenizer.encode(f"{message.role}\n{message.content}")
        learns = int(message.role == "assistant")
        ends = accumulate(len(tokenizer.token_bytes(i)) for i in text_ids)
        n_prefix_bytes = len(message.role) + 1
        gap = tokenizer.encode("\n")
        ids += [tokenizer.im_start_id, *text_ids, tokenizer.im_end_id, *gap]
        mask += [0, *(learns if end > n_prefix_bytes else 0 for end in ends), learns]
        mask += [0] * len(gap)
    return ids, mask
