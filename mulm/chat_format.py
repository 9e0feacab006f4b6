"""Chat formats: the special tokens around the turns of a conversation, and what ends a text.

Chosen by `mulm.data.tokenizer` from the special tokens that it finds; used by `mulm.chat` to
render, by the API to stop, by exports to tell other programs. Invariant: the text of a format's
template, with its special tokens recognised, has the ids that `mulm.chat.render` gives.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
"""Plain text around a call of a tool, as many models have learned it; no special tokens."""

TOOLS_BEGIN = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
TOOLS_END = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
"""Around the tools, a line of JSON each, at the end of what the system says."""


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
    in_words: str
    """A turn, for a model card."""

    @property
    def required(self) -> tuple[str, ...]:
        """The special tokens without which there is no such conversation."""
        names = (self.document_begin, self.text_end, self.turn_begin, self.role_end, self.turn_end)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def template(self) -> str:
        """The same in Jinja, without the document's beginning; with `tools` where there are any."""
        head = _quoted(self.turn_begin) + " + {} + " + _quoted((self.role_end or "") + self.gap)
        end = _quoted(self.turn_end + self.after)
        trim = " | trim" if self.is_trimmed else ""
        return (
            "{% if tools %}"
            "{% set begins = messages and messages[0]['role'] == 'system' %}"
            "{% set said = (messages[0]['content'] or '')" + trim + " if begins else '' %}"
            "{{ " + head.format("'system'") + " + said + ('\\n\\n' if said else '') + "
            + _quoted(TOOLS_BEGIN) + " }}"
            "{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
            "{{ " + _quoted(TOOLS_END) + " + " + end + " }}"
            "{% endif %}"
            "{% for message in messages %}"
            "{% if not (tools and loop.first and message['role'] == 'system') %}"
            "{% set said = (message['content'] or '')" + trim + " %}"
            "{{ " + head.format("message['role']") + " + said }}"
            "{% for call in message['tool_calls'] or [] %}"
            "{% set call = call['function'] or call %}"
            "{% set given = call['arguments'] %}"
            "{{ ('\\n' if said or not loop.first else '') + " + _quoted(CALL_BEGIN)
            + " + '\\n{\"name\": ' + (call['name'] | tojson) + ', \"arguments\": '"
            " + (given if given is string else (given | tojson)) + '}\\n' + "
            + _quoted(CALL_END) + " }}"
            "{% endfor %}"
            "{{ " + end + " }}"
            "{% endif %}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ " + head.format("'assistant'") + " }}{% endif %}"
        )  # fmt: skip

    @property
    def text_ends(self) -> tuple[str, ...]:
        """What ends a text that is no conversation: its end, and the beginning of another."""
        return tuple(dict.fromkeys((self.text_end, self.document_begin)))


def _quoted(text: str) -> str:
    """As a Jinja literal."""
    assert "'" not in text
    return "'" + text.replace("\n", "\\n") + "'"


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
    in_words="`<|start_header_id|>role<|end_header_id|>`, two line ends, the text, `<|eot_id|>`",
)
FORMATS = (CHATML, LLAMA3)


def nearest_format(special: Collection[str]) -> tuple[ChatFormat, list[str]]:
    """The format of which the fewest special tokens are missing, and which those are."""
    missing = [[name for name in form.required if name not in special] for form in FORMATS]
    best = min(range(len(FORMATS)), key=lambda i: len(missing[i]))
    return FORMATS[best], missing[best]
