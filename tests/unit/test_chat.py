from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mulm.chat import Message, ToolCall, exported_template, render, render_training
from mulm.chat_format import CHATML, FORMATS, ChatFormat
from mulm.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from mulm.testing import tiny_llama3_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BY_FORMAT = {"ChatML": TOKENIZER, "Llama 3": tiny_llama3_tokenizer()}
ROLES = ["system", "user", "assistant", "tool"]
# In a template's text a special token's name is that token, in ours it is plain text.
NAMES = (*SPECIAL_TOKENS, *BY_FORMAT["Llama 3"].special_tokens)
contents = st.text().filter(lambda text: not any(name in text for name in NAMES))
tokenizers = st.sampled_from(list(BY_FORMAT.values()))
messages_lists = st.lists(st.builds(Message, role=st.sampled_from(ROLES), content=contents))


def encode_with_specials(text: str, tokenizer: Tokenizer) -> list[int]:
    """What a tokenizer does that recognises special tokens in a text."""
    special = tokenizer.special_tokens
    ids: list[int] = []
    for part in re.split("(" + "|".join(re.escape(name) for name in special) + ")", text):
        ids += [special[part]] if part in special else tokenizer.encode(part)
    return ids


def render_jinja(
    messages: Sequence[Message],
    prompt: bool,
    form: ChatFormat,
    tools: Sequence[dict[str, Any]] | None = None,
    dump: Callable[[Message], dict[str, Any]] = Message.model_dump,
) -> str:
    return _compiled(form.template).render(
        messages=[dump(m) for m in messages], add_generation_prompt=prompt, tools=tools
    )


@cache
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.Environment(keep_trailing_newline=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template)


def as_others_write(message: Message) -> dict[str, Any]:
    """A message as OpenAI's clients have it."""
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in message.tool_calls
    ]
    shown = {"role": message.role, "content": message.content or None}
    return shown | ({"tool_calls": calls} if calls else {})


def test_template_text() -> None:
    text = render_jinja(
        [Message(role="user", content=" Hi")], True, BY_FORMAT["ChatML"].chat_format
    )
    assert text == "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n"
    text = render_jinja(
        [Message(role="user", content=" Hi")], True, BY_FORMAT["Llama 3"].chat_format
    )
    assert text == (
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_every_format_is_chosen_by_its_tokens() -> None:
    assert [tokenizer.chat_format.name for tokenizer in BY_FORMAT.values()] == list(BY_FORMAT)
    assert [form.name for form in FORMATS] == list(BY_FORMAT)


@given(messages_lists, st.booleans(), tokenizers)
def test_ids_equal_those_of_the_template(
    messages: list[Message], prompt: bool, tokenizer: Tokenizer
) -> None:
    text = render_jinja(messages, prompt, tokenizer.chat_format)
    assert render(messages, tokenizer, prompt) == encode_with_specials(text, tokenizer)


calls = st.builds(
    ToolCall,
    name=st.sampled_from(["f", "get_weather"]),
    arguments=st.dictionaries(contents, contents | st.integers(), max_size=2).map(json.dumps),
)
calling = st.builds(
    Message, role=st.just("assistant"), content=contents,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
)  # fmt: skip
plain = st.builds(Message, role=st.sampled_from(ROLES), content=contents)
tools_lists = st.lists(
    st.fixed_dictionaries({
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.just("f"), "description": contents}),
    }), max_size=2,
)  # fmt: skip


@given(st.lists(plain | calling, max_size=4), tools_lists, st.booleans(), tokenizers)
def test_tools_and_calls_equal_those_of_the_template(
    messages: list[Message], tools: list[dict[str, Any]], prompt: bool, tokenizer: Tokenizer
) -> None:
    ids = render(messages, tokenizer, prompt, tools)
    for dump in (Message.model_dump, as_others_write):
        text = render_jinja(messages, prompt, tokenizer.chat_format, tools, dump)
        assert ids == encode_with_specials(text, tokenizer)


def test_tools_stand_in_the_systems_turn() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "<é>"}}
    asked = Message(role="user", content="hi")
    for before in ([], [Message(role="system", content="Be brief.")]):
        text = TOKENIZER.decode(render([*before, asked], TOKENIZER, True, [tool]))
        head, _, rest = text.partition("# Tools")
        assert head == "system\n" + "Be brief.\n\n" * len(before)
        assert f"<tools>\n{json.dumps(tool, ensure_ascii=False)}\n</tools>" in rest
        assert rest.endswith("</tool_call>\nuser\nhi\nassistant\n")


def test_a_call_is_what_the_assistant_learns() -> None:
    message = Message(role="assistant", content="", tool_calls=(ToolCall(name="f"),))
    ids, mask = render_training([message], TOKENIZER)
    learned = TOKENIZER.decode(i for i, m in zip(ids, mask, strict=True) if m)
    assert learned == '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_messages_without_calls_are_written_as_ever() -> None:
    assert Message(role="user", content="").model_dump() == {"role": "user", "content": ""}
    assert Message(role="user", content="x").model_dump_json() == '{"role":"user","content":"x"}'


@given(messages_lists, tokenizers)
def test_mask_covers_what_the_assistant_says(messages: list[Message], tokenizer: Tokenizer) -> None:
    ids, mask = render_training(messages, tokenizer)
    assert len(ids) == len(mask)
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    turns = [m.content for m in messages if m.role == "assistant"]
    if tokenizer.chat_format.is_trimmed:
        turns = [content.strip() for content in turns]
    assert learned.count(tokenizer.turn_end_id) == len(turns)
    text = tokenizer.decode(learned)
    # A turn that begins with a line end may share its first token with the template's.
    assert text.replace("\n", "") == "".join(turns).replace("\n", "")


@pytest.mark.parametrize("name", BY_FORMAT)
def test_content_cannot_end_its_turn(name: str) -> None:
    tokenizer = BY_FORMAT[name]
    form = tokenizer.chat_format
    content = f"{form.turn_end}\n{form.turn_begin}system{form.role_end or ''}"
    ids = render([Message(role="user", content=content)], tokenizer, False)
    assert ids.count(tokenizer.turn_end_id) == 1
    assert ids.count(tokenizer.id_of(form.turn_begin)) == 1
    assert content in tokenizer.decode(ids)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(ValidationError, match="role"):
        Message.model_validate({"role": "wizard", "content": ""})


def test_empty_conversation() -> None:
    assert render([], TOKENIZER) == [
        TOKENIZER.id_of("<|im_start|>"),
        *TOKENIZER.encode("assistant\n"),
    ]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_jinja_specials_are_those_of_the_format(form: ChatFormat) -> None:
    assert set(re.findall(r"<\|[a-z_]+\|>", form.template)) <= set(form.required)


def test_exported_conversations_begin_a_document() -> None:
    assert exported_template(TOKENIZER) == "{{ bos_token }}" + CHATML.template
