"""Messages to token ids, and to the loss mask for training, in the tokenizer's chat format.

Called by the ingress and by the dataset build; `exported_template` is the same in Jinja for
those who load an exported model. Invariant: only the format writes special ids; a message
that spells `<|im_end|>` is read as those characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from mulm.config import Frozen
from mulm.data.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]


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
        head_ids, lead = _head("assistant", tokenizer)
        ids += [*head_ids, *tokenizer.encode(lead)]
    return ids


def exported_template(tokenizer: Tokenizer) -> str:
    """What stands in exported models: a conversation is a document, as it is served here too."""
    return "{{ bos_token }}" + tokenizer.chat_format.template


def render_training(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and for each id whether the model learns to say it.

    Returns:
        Ids and loss mask, of one length. The mask is 1 on what the assistant says and on the
        end of its turn, 0 on roles, other speakers and line ends between turns.
    """
    form = tokenizer.chat_format
    after = tokenizer.encode(form.after)
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        head_ids, lead = _head(message.role, tokenizer)
        content = message.content.strip() if form.is_trimmed else message.content
        # One text, so that its ids are those of the exported template.
        text_ids = tokenizer.encode(lead + content)
        learns = int(message.role == "assistant")
        ends = accumulate(len(tokenizer.token_bytes(i)) for i in text_ids)
        ids += [*head_ids, *text_ids, tokenizer.turn_end_id, *after]
        mask += [0] * len(head_ids)
        mask += [*(learns if end > len(lead) else 0 for end in ends), learns, *([0] * len(after))]
    return ids, mask


def _head(role: str, tokenizer: Tokenizer) -> tuple[list[int], str]:
    """The ids that begin a turn, and the ASCII text that its content continues."""
    form = tokenizer.chat_format
    begin = tokenizer.id_of(form.turn_begin)
    if form.role_end is None:
        return [begin], role + form.gap
    return [begin, *tokenizer.encode(role), tokenizer.id_of(form.role_end)], form.gap
