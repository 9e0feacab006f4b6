"""Tools that a model may call: what a client says of them, the prompt, and what holds the answer.

Called by the routes. `read_tools` takes `tools`, `tool_choice` and `parallel_tool_calls` as they
are in the body of a chat completion or of a response, and gives a `ToolUse`:

    use = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    ids = render(messages, tokenizer, tools=use.described)      # mulm.chat
    sampling = SamplingParams(..., grammar=use.grammar())       # None: nothing to hold
    parser = use.parser()                                       # None: all of it is content
    for text in stream: deltas = parser.push(text)              # mulm.toolcall_parser
    deltas = parser.finish(); finish_reason = "tool_calls" if parser.n_calls else ...
    messages = check_turns(messages)                            # mulm.tool_turns

It raises `ConfigError` with `param` "tools" or "tool_choice"; an engine that cannot hold the
grammar raises one with `param` "grammar", which a route tells as "tools". Invariants: a name is of
64 plain characters; nothing that a client says of a tool spells the marks around it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from mulm.chat_format import CALL_BEGIN, CALL_END
from mulm.errors import ConfigError, nearest
from mulm.messages import Grammar
from mulm.toolcall_parser import ToolCallParser

MAX_TOOLS = 128
MAX_BYTES = 64 << 10
"""Of all tools, as JSON."""

_MAX_DEPTH = 64
_MAX_CALLS = 32
_PLAIN = (str, int, float, type(None))

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MARKS = (CALL_BEGIN, CALL_END, "<tools>", "</tools>")
_NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_ANNOTATIONS = frozenset({"title", "description", "$comment", "examples", "default", "$schema"})
_VALUES = frozenset({"const", "enum"})

Mode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client runs; `parameters` are a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(_NO_PARAMETERS))
    is_strict: bool = False
    """Whether a keyword of the schema that cannot be held is an error; else it is left out."""

    @property
    def described(self) -> dict[str, Any]:
        """As it stands in the prompt."""
        about = {"description": self.description} if self.description else {}
        function = {"name": self.name, **about, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one request, which of them may be called, and whether one must."""

    tools: tuple[Tool, ...] = ()
    mode: Mode = "none"
    allowed: tuple[str, ...] = ()
    is_parallel: bool = True

    @property
    def described(self) -> list[dict[str, Any]]:
        """What `mulm.chat.render` takes; none where none may be called."""
        return [] if self.mode == "none" else [tool.described for tool in self.tools]

    def grammar(self) -> Grammar | None:
        """What the answer is held to: from its first token where a call must come.

        A call that may come is held from its mark on, where llguidance is installed.
        """
        if self.mode == "none" or (self.mode == "auto" and not can_hold()):
            return None
        bodies = [_call_rule(tool) for tool in self.tools if tool.name in self.allowed]
        names = " | ".join(f"call_{number}" for number in range(len(bodies)))
        mark = json.dumps(CALL_BEGIN)
        before = "" if self.mode == "auto" else mark
        more = f'("\\n" {mark} call){{0,{_MAX_CALLS - 1}}}' if self.is_parallel else ""
        rules = [f"start: {before} call {more}", f"call: {names}"]
        rules += [f"call_{number}: {body}" for number, body in enumerate(bodies)]
        after = CALL_BEGIN if self.mode == "auto" else ""
        return Grammar("ebnf", "\n".join(rules) + "\n", after=after)

    def parser(self, make_id: Callable[[], str] | None = None) -> ToolCallParser | None:
        """What finds the calls in the answer's text; a fresh one for each choice."""
        if self.mode == "none":
            return None
        return ToolCallParser(self.allowed, make_id or _random_id, is_held=can_hold())


def can_hold() -> bool:
    """Whether llguidance is installed, without loading it."""
    return importlib.util.find_spec("llguidance") is not None


def read_tools(tools: Any, tool_choice: Any = None, parallel: bool | None = None) -> ToolUse:
    """What a client says, in the shape of a chat completion or of a response.

    Raises:
        ConfigError: a tool or the choice is not of its shape, too large, or names nothing.
    """
    found = tuple(_tool(value, at) for at, value in enumerate(_list_of_tools(tools)))
    names = [tool.name for tool in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _wrong(f"two tools are called {twice!r}")
    mode, allowed = _choice(tool_choice, names)
    return ToolUse(found, mode, allowed, parallel is not False)


def _list_of_tools(tools: Any) -> list[Any]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise _wrong("tools are a list")
    if len(tools) > MAX_TOOLS:
        raise _wrong(f"{len(tools)} tools, more than {MAX_TOOLS}")
    try:
        size_bytes = len(json.dumps(tools, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise _wrong("tools are not JSON, or too deep") from None
    if size_bytes > MAX_BYTES:
        raise _wrong(f"the tools have {size_bytes} bytes, more than {MAX_BYTES}")
    if _is_deep(tools):
        raise _wrong(f"the tools are nested more than {_MAX_DEPTH} deep")
    return tools


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        inside = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for each in inside if not isinstance(each, _PLAIN) for v in each]
        if not level:
            return False
    return True


def _tool(value: Any, at: int) -> Tool:
    if not isinstance(value, dict) or value.get("type") != "function":
        raise _wrong(f"tools.{at} is no function", "this server knows the type 'function' only")
    is_nested = "function" in value
    function = value["function"] if is_nested else {k: v for k, v in value.items() if k != "type"}
    if not isinstance(function, dict) or (is_nested and len(value) > 2):
        raise _wrong(f"tools.{at} has other fields than type and function")
    known = ("name", "description", "parameters", "strict")
    unknown = next((key for key in function if key not in known), None)
    if unknown is not None:
        raise _wrong(f"tools.{at} has an unknown field {unknown[:64]!r}", nearest(unknown, known))
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _wrong(f"the name of tools.{at} is not 1 to 64 of a-z, A-Z, 0-9, _ and -")
    if not isinstance(description, str):
        raise _wrong(f"the description of {name} is no text")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise _wrong(f"strict of {name} is true or false")
    tool = Tool(name, description, _parameters(name, function.get("parameters")), bool(strict))
    text = json.dumps(tool.described, ensure_ascii=False)
    mark = next((mark for mark in MARKS if mark in text), None)
    if mark is not None:
        raise _wrong(f"the tool {name} spells {mark}, which stands around tools and calls")
    return tool


def _parameters(name: str, value: Any) -> Mapping[str, Any]:
    if value is None or value == {}:
        return dict(_NO_PARAMETERS)
    if not isinstance(value, dict) or value.get("type", "object") != "object":
        raise _wrong(f"the parameters of {name} are no JSON schema of an object")
    return value


def _choice(value: Any, names: Sequence[str]) -> tuple[Mode, tuple[str, ...]]:
    if value is None:
        return ("auto" if names else "none"), tuple(names)
    if value == "none" or (value == "auto" and not names):
        return "none", tuple(names)
    if not names:
        raise _wrong_choice("tool_choice needs tools")
    if value in ("auto", "required"):
        return value, tuple(names)
    if not isinstance(value, dict):
        raise _wrong_choice("tool_choice is none, auto, required or an object")
    if value.get("type") == "function":
        return "required", (_named(value, names),)
    if value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools", value), names)
    raise _wrong_choice("tool_choice has a type that this server does not know")


def _allowed(value: Any, names: Sequence[str]) -> tuple[Mode, tuple[str, ...]]:
    if not isinstance(value, dict) or value.get("mode") not in ("auto", "required"):
        raise _wrong_choice("allowed_tools has a mode, auto or required")
    tools = value.get("tools")
    if not isinstance(tools, list) or not 0 < len(tools) <= MAX_TOOLS:
        raise _wrong_choice("allowed_tools has a list of tools")
    return value["mode"], tuple(dict.fromkeys(_named(tool, names) for tool in tools))


def _named(value: Any, names: Sequence[str]) -> str:
    inner = value.get("function", value) if isinstance(value, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise _wrong_choice("tool_choice names no function")
    if name not in names:
        raise _wrong_choice(f"no tool is called {name[:64]!r}", nearest(name[:64], names))
    return name


def _call_rule(tool: Tool) -> str:
    begin = json.dumps(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
    end = json.dumps(f"}}\n{CALL_END}")
    guidance = {} if tool.is_strict else {"lenient": True, "coerce_one_of": True}
    schema = {"type": "object", **_bare(tool.parameters), "x-guidance": guidance}
    return f"{begin} %json {json.dumps(schema)} {end}"


def _bare(schema: Any) -> Any:
    """Without annotations: they hold nothing, and are long."""
    if isinstance(schema, list):
        return [_bare(value) for value in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value if key in _VALUES else _bare(value)
        for key, value in schema.items()
        # A property of that name has a schema, an annotation has a text or an example.
        if key not in _ANNOTATIONS or isinstance(value, (Mapping, bool))
    }


def _random_id() -> str:
    return f"call_{uuid4().hex[:24]}"


def _wrong(message: str, hint: str = "") -> ConfigError:
    return ConfigError(message, hint=hint, param="tools")


def _wrong_choice(message: str, hint: str = "") -> ConfigError:
    return ConfigError(message, hint=hint, param="tool_choice")
