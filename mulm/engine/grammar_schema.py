"""Which JSON schemas can be held, before the grammar library sees them.

Called by `grammar_source`, for schemas alone and within grammars. The library itself names keywords
that it does not know to hold; here stand the cases that it would hold wrongly or never finish.
Invariant: a schema that passes is small in depth, references and arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from mulm.errors import ConfigError

MAX_DEPTH = 64
MAX_REFS = 128
MAX_MULTIPLE = 10_000
MAX_FIELDS = 1000
MAX_JOINED_PATTERNS = 8
MAX_PATTERNS = 64
"""Where each is tried by itself, for a millisecond."""
MAX_NUMBER = 2**53
"""Beyond it the library rounds numbers, and ends its process on two bounds below -2^63."""
_PATTERNS = ("pattern", "format")
_OTHERS = frozenset({"$ref", "anyOf", "oneOf"})
_OWN = (
    frozenset(
        {"pattern", "format", "properties", "patternProperties", "additionalProperties", "items"}
        | {"prefixItems", "additionalItems"}
    )
    | _OTHERS
)
_DATA = frozenset({"const", "enum"})
"""Keywords whose values are no schemas, whatever they look like."""
_MAX_EXPONENT = 12


def check_schema(schema: Any) -> dict[str, Any] | bool:
    """The schema itself, if it can be held.

    Raises:
        ConfigError: it is too deep, points outside of itself, or nothing holds an answer to it.
    """
    if not isinstance(schema, (dict, bool)):
        raise _refuse("a schema is a JSON object")
    values = list(_values(schema))
    _check_numbers(values)
    parts = [value for value in values if isinstance(value, dict)]
    refs = {part["$ref"] for part in parts if isinstance(part.get("$ref"), str)}
    outside = sorted(ref for ref in refs if not ref.startswith("#"))
    if outside:
        raise _refuse(f"$ref {outside[0][:100]!r} points outside of the schema")
    if len(refs) > MAX_REFS:
        raise _refuse(f"the schema has more than {MAX_REFS} different $ref")
    for part in parts:
        _check_counts(part)
        _check_patterns(part)
    _check_sizes(parts)
    _check_multiples([part["multipleOf"] for part in parts if "multipleOf" in part])
    return schema


def without_patterns(schema: Any, is_unreadable: Callable[[str], bool]) -> Any:
    """The schema without those patterns, where it asks for what can be held and no more.

    Raises:
        ConfigError: it is too deep, or has too many patterns.
    """
    # What is too deep is refused before it is followed by recursion.
    named = [value for value in _values(schema) if isinstance(value, dict)]
    n_patterns = sum(len(_patterns_of(part)) for part in named)
    if n_patterns > MAX_PATTERNS:
        raise _refuse(f"the schema has {n_patterns} patterns, more than {MAX_PATTERNS}")
    return _without(schema, is_unreadable)


def _patterns_of(part: dict[str, Any]) -> list[str]:
    """What may be patterns: that of the part, and the names of fields that are ones."""
    named = part.get("patternProperties")
    found = [part.get("pattern"), *(named if isinstance(named, dict) else ())]
    return [pattern for pattern in found if isinstance(pattern, str)]


def is_dangling(pattern: str) -> bool:
    """Whether it ends in the middle of an escape, which the library drops without a word."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def _values(schema: Any) -> Iterator[Any]:
    """The schema and every value inside, be it a schema or not; without recursion."""
    level = [schema]
    for _ in range(MAX_DEPTH):
        yield from level
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise _refuse(f"the schema is nested more than {MAX_DEPTH} deep")


def _without(schema: Any, is_unreadable: Callable[[str], bool]) -> Any:
    if isinstance(schema, list):
        return [_without(value, is_unreadable) for value in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str) and is_unreadable(value):
            continue
        if key == "patternProperties" and isinstance(value, dict):
            value = {name: it for name, it in value.items() if not is_unreadable(name)}
        kept[key] = value if key in _DATA else _without(value, is_unreadable)
    return kept


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _check_numbers(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
            raise _refuse(f"{str(value)[:40]} is a number beyond 2^53, which cannot be held")


def _check_sizes(parts: list[dict[str, Any]]) -> None:
    fields = [part["properties"] for part in parts if isinstance(part.get("properties"), dict)]
    if sum(map(len, fields)) > MAX_FIELDS:
        raise _refuse(f"the schema has more than {MAX_FIELDS} properties")
    n_patterns = sum(isinstance(part.get(key), str) for part in parts for key in _PATTERNS)
    if n_patterns > MAX_JOINED_PATTERNS and any(map(_is_joined, parts)):
        raise _refuse(
            "a schema that joins others (allOf, or beside $ref and anyOf) has at most"
            f" {MAX_JOINED_PATTERNS} pattern and format"
        )


def _is_joined(part: dict[str, Any]) -> bool:
    """Whether a value has to satisfy several schemas at once: expressions are intersected then."""
    return "allOf" in part or (len(_OTHERS & part.keys()) > 0 and len(_OWN & part.keys()) > 1)


def _check_counts(part: dict[str, Any]) -> None:
    """The library counts a key twice that is said twice, and JSON counts it once."""
    least = part.get("minProperties", 0)
    is_closed = part.get("additionalProperties") is False and "patternProperties" not in part
    if isinstance(least, (int, float)) and least > 1 and not is_closed:
        raise _refuse("minProperties above 1 is held only where additionalProperties is false")


def _check_patterns(part: dict[str, Any]) -> None:
    for pattern in _patterns_of(part):
        if is_dangling(pattern):
            raise _refuse(f"the pattern {pattern[:100]!r} ends with a backslash")


def _check_multiples(values: list[Any]) -> None:
    """Multiples are found by an automaton with as many states as their common multiple."""
    numbers = [Decimal(str(v)) for v in values if type(v) in (int, float) and v > 0]
    if not numbers:
        return
    if any(abs(number.adjusted()) > _MAX_EXPONENT for number in numbers):
        raise _refuse("multipleOf is too large or too small")
    finest = min(int(number.normalize().as_tuple().exponent) for number in numbers)
    if math.lcm(*(int(number.scaleb(-min(finest, 0))) for number in numbers)) > MAX_MULTIPLE:
        raise _refuse(f"multipleOf has more than {MAX_MULTIPLE} remainders to tell apart")


def _refuse(message: str) -> ConfigError:
    return ConfigError(message, hint="simplify the schema", param="grammar")
