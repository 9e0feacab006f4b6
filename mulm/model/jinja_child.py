"""Renders one Jinja template in a process of its own, with little time, memory and text.

Run by `chat_template` as a file, with a template from strangers: a sandbox keeps it from doing
harm, but not from never ending, nor from making too much text. Needs nothing of ours. Standard
input is one JSON object with `template` and `variables`; standard output one with `text`, or
`error`.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

CPU_S = 5
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 1 << 20
_ERROR_CHARACTERS = 300


def main() -> None:
    """Limit this process, read, render, answer."""
    for what, limit in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES)):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(what, (limit, limit))
    order = json.load(sys.stdin)
    json.dump(answer(order["template"], order["variables"]), sys.stdout)


def answer(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """The text, or why there is none: whatever a template raises is data."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    # As others render chat templates: Jinja's own is for web pages.
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        text = environment.from_string(template).render(**variables)
    except Exception as error:  # noqa: BLE001 - a border: foreign code of a kind
        return {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
    return {"text": text} if len(text) <= MAX_CHARACTERS else {"error": "it makes too much text"}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


if __name__ == "__main__":
    main()
