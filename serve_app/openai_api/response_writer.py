"""One response while it is written: its items, and the events that tell of them.

Made by the responses route for each answer. A whole response is what the events leave behind, so
that streamed and whole cannot differ. Invariant: an item that was begun is ended before the next
begins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from mulm.chat import Message, ToolCall
from mulm.refs import new_id
from mulm.toolcall_parser import ContentDelta, ToolCallDelta
from mulm.toolcalls import ToolUse
from serve_app.openai_api.choices import Delta
from serve_app.openai_api.finished import Usage
from serve_app.openai_api.logprobs import TokenNames, chat_logprobs
from serve_app.openai_api.responses_schemas import ResponsesBody

Event = dict[str, Any]


class ResponseWriter:
    """Turns deltas of text into items of a response.

    Args:
        body: What the client asked.
        model: The served model's name.
        use: The tools that may be called.
        names: Texts of tokens, where log-probabilities are told.
        n_prompt: Tokens of the prompt.
    """

    def __init__(
        self, body: ResponsesBody, model: str, use: ToolUse, names: TokenNames | None, n_prompt: int
    ) -> None:
        self._parser, self._names = use.parser(), names
        self._usage = Usage(n_prompt)
        self._n_events = 0
        self._item: dict[str, Any] | None = None
        self._logprobs: list[dict[str, Any]] = []
        self.response = _head(body, model)

    @property
    def message(self) -> Message:
        """What the assistant said, as a turn of the conversation."""
        output = self.response["output"]
        texts = [item["content"][0]["text"] for item in output if item["type"] == "message"]
        calls = [
            ToolCall(name=item["name"], arguments=item["arguments"], id=item["call_id"])
            for item in output
            if item["type"] == "function_call"
        ]
        return Message(role="assistant", content="".join(texts), tool_calls=tuple(calls))

    def begin(self) -> Iterator[Event]:
        """The events before the first token."""
        yield self._event("response.created", response=dict(self.response))
        yield self._event("response.in_progress", response=dict(self.response))

    def add(self, delta: Delta) -> Iterator[Event]:
        """The events of more text."""
        self._usage.add(delta)
        if self._names is not None:
            self._logprobs += chat_logprobs(delta.logprobs, self._names)
        if self._parser is None:
            parts: list[ContentDelta | ToolCallDelta] = [ContentDelta(delta.text)]
        else:
            parts = list(self._parser.push(delta.text))
            if delta.finish_reason:
                parts += self._parser.finish(delta.finish_reason == "length")
        for part in parts:
            if isinstance(part, ToolCallDelta):
                yield from self._call(part)
            elif part.text:
                yield from self._text(part.text)
        if delta.finish_reason:
            yield from self._end(delta.finish_reason)

    def _text(self, text: str) -> Iterator[Event]:
        if self._item is None or self._item["type"] != "message":
            yield from self._close()
            yield from self._open(
                {
                    "id": new_id("msg"),
                    "type": "message",
                    "role": "assistant",
                    "status": "in_progress",
                    "content": [],
                }
            )
            assert self._item is not None
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._of_item("response.content_part.added", content_index=0, part=dict(part))
            self._item["content"].append(part)
        assert self._item is not None
        part, logprobs = self._item["content"][0], self._logprobs
        self._logprobs = []
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._of_item(
            "response.output_text.delta", content_index=0, delta=text, logprobs=logprobs
        )

    def _call(self, part: ToolCallDelta) -> Iterator[Event]:
        if part.id is not None:
            yield from self._close()
            yield from self._open(
                {
                    "id": new_id("fc"),
                    "type": "function_call",
                    "call_id": part.id,
                    "name": part.name,
                    "arguments": "",
                    "status": "in_progress",
                }
            )
        assert self._item is not None
        if part.arguments:
            self._item["arguments"] += part.arguments
            yield self._of_item("response.function_call_arguments.delta", delta=part.arguments)

    def _open(self, item: dict[str, Any]) -> Iterator[Event]:
        self._item = item
        self.response["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._index, item=dict(item))

    def _close(self, status: str = "completed") -> Iterator[Event]:
        item = self._item
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            yield self._of_item(
                "response.output_text.done",
                content_index=0, text=part["text"], logprobs=part["logprobs"],
            )  # fmt: skip
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        else:
            yield self._of_item(
                "response.function_call_arguments.done",
                name=item["name"], arguments=item["arguments"],
            )  # fmt: skip
        yield self._event("response.output_item.done", output_index=self._index, item=item)
        self._item = None

    def _end(self, reason: str) -> Iterator[Event]:
        if not self.response["output"]:
            yield from self._text("")
        status = "completed" if reason == "stop" else "incomplete"
        yield from self._close(status)
        self.response |= {"status": status, "usage": _usage(self._usage)}
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        yield self._event(f"response.{status}", response=self.response)

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, **values: Any) -> Event:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=self._index, **values)

    def _event(self, kind: str, **values: Any) -> Event:
        self._n_events += 1
        return {"type": kind, "sequence_number": self._n_events - 1, **values}


def _head(body: ResponsesBody, model: str) -> dict[str, Any]:
    """A response before its first item: what it is, and how it was asked for."""
    form = body.text.format if body.text else None
    written = form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": written, "verbosity": "medium"},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.n_prompt,
        "input_tokens_details": {"cached_tokens": min(usage.n_cached, usage.n_prompt)},
        "output_tokens": usage.n_new,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.n_prompt + usage.n_new,
    }
