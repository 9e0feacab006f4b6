"""Chat formats: the special tokens around the turns of a conversation, and what ends a text.

Chosen by `mulm.data.tokenizer` from the special tokens that it finds; used by `mulm.chat` to
render, by the API to stop, by exports to tell other programs. Invariant: the text of a format's
template, with its special tokens recognised, has the ids that `mulm.chat.render` gives.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A turn is `turn_begin`, role, `role_end`, `gap`, content, `turn_end`, `after`."""

    name: str
    document_begin: str
    """Stands before every document, and a conversation is one."""
    text_end: str
    turn_begin: str
    role_end: str | None
    """None where the gap alone ends a role: role, gap and content are then one text."""
    gap: str
    is_trimmed: bool
    """Whether white space around the content is left out."""
    turn_end: str
    after: str
    other_ends: tuple[str, ...]
    """Some tokenizers have them; an answer ends there too."""
    pads: tuple[str, ...]
    """The first of these that there is fills rows."""
    template: str
    """The same in Jinja, without the document's beginning."""
    in_words: str
    """A turn, for a model card."""

    @property
    def required(self) -> tuple[str, ...]:
        """The special tokens without which there is no such conversation."""
        names = (self.document_begin, self.text_end, self.turn_begin, self.role_end, self.turn_end)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def text_ends(self) -> tuple[str, ...]:
        """What ends a text that is no conversation: its end, and the beginning of another."""
        return tuple(dict.fromkeys((self.text_end, self.document_begin)))


CHATML = ChatFormat(
    name="ChatML",
    document_begin="<|endoftext|>",
    text_end="<|endoftext|>",
    turn_begin="<|im_start|>",
    role_end=None,
    gap="\n",
    is_trimmed=False,
    turn_end="<|im_end|>",
    after="\n",
    other_ends=(),
    pads=("<|pad|>",),
    template=(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    in_words="`<|im_start|>role`, a line end, the text, `<|im_end|>`",
)
LLAMA3 = ChatFormat(
    name="Llama 3",
    document_begin="<|begin_of_text|>",
    text_end="<|end_of_text|>",
    turn_begin="<|start_header_id|>",
    role_end="<|end_header_id|>",
    gap="\n\n",
    is_trimmed=True,
    turn_end="<|eot_id|>",
    after="",
    other_ends=("<|eom_id|>",),
    pads=("<|pad|>", "<|finetune_right_pad_id|>"),
    template=(
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        " + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
        "{% endif %}"
    ),
    in_words="`<|start_header_id|>role<|end_header_id|>`, two line ends, the text, `<|eot_id|>`",
)
FORMATS = (CHATML, LLAMA3)


def nearest_format(special: Collection[str]) -> tuple[ChatFormat, list[str]]:
    """The format of which the fewest special tokens are missing, and which those are."""
    missing = [[name for name in form.required if name not in special] for form in FORMATS]
    best = min(range(len(FORMATS)), key=lambda i: len(missing[i]))
    return FORMATS[best], missing[best]
