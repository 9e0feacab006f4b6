"""What is wrong with a value, in our own words instead of the schema library's.

Used for configs (`mulm.config`) and for bodies of requests (`serve_app.errors`). Pure. Invariant:
what is not known here is said as the library says it, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text without half characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a section with keys",
    "mapping_type": "must be a section with keys",
    "model_type": "must be a section with keys",
    "model_attributes_type": "must be a section with keys",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "none_required": "must be null",
    "missing": "is required",
}


def what_is_wrong(problem: Mapping[str, Any]) -> str:
    """The words for one of the errors that pydantic lists."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    context = problem.get("ctx") or {}
    try:
        if 1 in (context.get("min_length"), context.get("max_length")):
            words = words.replace("entries", "entry").removesuffix("s")
        return words.format(**context)
    except KeyError:  # another version of the library calls it otherwise
        return str(problem["msg"])
