"""A `Grammar` as text for the grammar library, with what would take too long refused before.

Called by `Grammars`. Invariant: what passes here is compiled within about 100 ms and without deep
recursion: the limits below are where measured time and stack end (docs/decisions).
"""

from __future__ import annotations

import json
import re
from typing import Any

from mulm.engine.grammar_schema import check_schema, is_dangling, without_patterns
from mulm.errors import ConfigError
from mulm.messages import Grammar

MAX_BYTES = 32 << 10
MAX_RULES = 200
MAX_NESTING = 64
MAX_CHOICES = 2000
_GUIDANCE = {"whitespace_pattern": r"[ \n\t]{0,20}", "json_allowed_escapes": '"\\bfnrt'}
"""White space between parts of JSON is bounded, so that an answer cannot consist of it. Characters
are not spelled by number: a key that is said twice, once so, would not be seen as the same."""
_INLINE = "%json"
_MAX_OTHER = 16 << 10
_IS_LARK = re.compile(r"%llguidance\b|start\s*:")
_RULE_NAME = re.compile(r"[?!]?[\w.\-]+")


def source_of(grammar: Grammar) -> str:
    """The library's JSON for a grammar.

    Raises:
        ConfigError: it is too large, too deep, or not of its kind.
    """
    _check_size(grammar)
    inner = _INNER[grammar.kind](grammar.text)
    if not grammar.after:
        return json.dumps({"grammars": [inner]})
    outer = (
        f"start: FREE | open @inner\nFREE: /(.|\\n)*/\nopen[lazy]: FREE {_literal(grammar.after)}\n"
    )
    grammars = [{"name": "outer", "lark_grammar": outer}, {**inner, "name": "inner"}]
    return json.dumps({"grammars": grammars})


def refuse(message: str, hint: str = "") -> ConfigError:
    """The error for what is wrong with a grammar."""
    return ConfigError(message, hint=hint, param="grammar")


def _check_size(grammar: Grammar) -> None:
    try:
        size_bytes = len(grammar.text.encode()) + len(grammar.after.encode())
    except UnicodeEncodeError:
        raise refuse("the grammar holds half a character (a lone surrogate)") from None
    if size_bytes > MAX_BYTES:
        raise refuse(
            f"the grammar has {size_bytes} bytes, more than the {MAX_BYTES} that are compiled",
            hint="make it smaller",
        )
    if "\0" in grammar.text or "\0" in grammar.after:
        raise refuse("the grammar holds a NUL")


def _object(text: str) -> dict[str, Any]:
    if text.strip():
        raise refuse("any JSON object has no schema", hint="use the kind json_schema")
    return {"json_schema": {"type": "object", "x-guidance": _GUIDANCE}}


def _schema(text: str) -> dict[str, Any]:
    schema = check_schema(_from_json(text, "the schema"))
    return {"json_schema": _guided(schema)}


def _guided(schema: dict[str, Any] | bool, options: Any = None) -> dict[str, Any]:
    if isinstance(schema, bool):
        schema = {} if schema else {"anyOf": []}
    return {**schema, "x-guidance": {**(options or {}), **_GUIDANCE}}


def is_unreadable(pattern: str) -> bool:
    """Whether a pattern in a schema cannot be held."""
    from llguidance import LLMatcher

    schema = {"type": "string", "pattern": pattern}
    return is_dangling(pattern) or bool(LLMatcher.validate_grammar(
        json.dumps({"grammars": [{"json_schema": schema}]})
    ))  # fmt: skip


def _regex(text: str) -> dict[str, Any]:
    _check_nesting(text)
    if is_dangling(text):
        raise refuse("the regular expression ends with a backslash", hint="escape it: \\\\")
    from llguidance import LLMatcher

    source = json.loads(LLMatcher.grammar_from_regex(text))
    return {"lark_grammar": source["grammars"][0]["lark_grammar"]}


def _choice(text: str) -> dict[str, Any]:
    choices = _from_json(text, "the list of choices")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise refuse("choices are a list of texts, none of them empty")
    if not 0 < len(choices) <= MAX_CHOICES:
        raise refuse(f"{len(choices)} choices: at least one, at most {MAX_CHOICES}")
    try:
        alternatives = " | ".join(_literal(choice) for choice in dict.fromkeys(choices))
    except UnicodeEncodeError:
        raise refuse("a choice holds half a character (a lone surrogate)") from None
    return {"lark_grammar": f"start: {alternatives}\n"}


def _literal(text: str) -> str:
    text.encode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _ebnf(text: str) -> dict[str, Any]:
    _check_nesting(text)
    if sum(map(_is_rule, text.split("\n"))) + text.count("::=") > MAX_RULES:
        raise refuse(f"the grammar has more than {MAX_RULES} rules", hint="make it smaller")
    return {"lark_grammar": _with_checked_schemas(_as_lark(text))}


def _is_rule(line: str) -> bool:
    """Whether a line of Lark begins one: a name, perhaps attributes, a colon."""
    line = line.strip()
    name = _RULE_NAME.match(line)
    rest = line[name.end() :].lstrip() if name else ""
    if rest.startswith("["):
        rest = rest[rest.find("]") + 1 :].lstrip()
    return rest.startswith((":", "{"))


def _as_lark(text: str) -> str:
    """Lark as it is; the other dialect, of `name ::= ...` from `root` on, by the library."""
    if any(_IS_LARK.match(line.strip()) for line in text.split("\n")):
        return text
    if "::=" not in text:
        raise refuse(
            "the grammar has neither a rule 'start', as in Lark, nor one 'root', as in GBNF",
            hint="write `start: ...` or `root ::= ...`",
        )
    if len(text) > _MAX_OTHER:
        raise refuse(f"a grammar of this dialect has at most {_MAX_OTHER} characters", "use Lark")
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(text)
    except Exception as error:  # noqa: BLE001 - a border: the converter raises bare exceptions
        raise refuse(f"the grammar cannot be read: {str(error)[:200]}") from None


def _with_checked_schemas(text: str) -> str:
    """Schemas within a grammar keep the limits of those by themselves, and are guided as they are.

    They may ask for `x-guidance` of their own, as tools that are not strict do.
    """
    pieces, at = [], 0
    while (found := text.find(_INLINE, at)) >= 0:
        begin = found + len(_INLINE)
        begin += len(text[begin:]) - len(text[begin:].lstrip())
        try:
            schema, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            raise refuse(f"no JSON stands after {_INLINE} in the grammar") from None
        options = schema.get("x-guidance") if isinstance(schema, dict) else None
        if isinstance(options, dict) and options.get("lenient"):
            schema = without_patterns(schema, is_unreadable)
        guided = _guided(check_schema(schema), options if isinstance(options, dict) else None)
        pieces += [text[at:found], _INLINE, " ", json.dumps(guided)]
        at = end
    return "".join([*pieces, text[at:]])


def _check_nesting(text: str) -> None:
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}" and depth:
            depth -= 1
    if deepest > MAX_NESTING:
        raise refuse(
            f"brackets are nested {deepest} deep, more than {MAX_NESTING}", hint="make it simpler"
        )


def _from_json(text: str, what: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise refuse(f"{what} is no JSON: {str(error)[:100]}") from None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_INNER = {
    "json_object": _object,
    "json_schema": _schema,
    "regex": _regex,
    "choice": _choice,
    "ebnf": _ebnf,
}
