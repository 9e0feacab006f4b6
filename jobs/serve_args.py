"""The settings of a deployment as the command line gives them.

Called by the journey. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mulm.config import load_config
from mulm.errors import ConfigError
from mulm.refs import parse_ref
from serve_app.settings import AppArgs


def serving_args(
    model: str,
    adapters: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> AppArgs:
    """What somebody asks to be served.

    Args:
        model: A reference.
        adapters: References, or `name=reference` each.
        values: Fields of `AppArgs`; None leaves one at its default.
        overrides: More of them, as `key=value`.

    Raises:
        ConfigError: a setting is impossible.
    """
    given = {name: value for name, value in (values or {}).items() if value is not None}
    given |= {"model": model, "adapters": adapters_by_name(adapters)}
    return load_config(AppArgs, given, overrides)


def adapters_by_name(given: Iterable[str]) -> dict[str, str]:
    """References by the names that clients use: `other=poems@2`, or `poems@2` under its own name.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, ref = text.partition("=")
        if not equals:
            name, ref = parse_ref(text).name, text
        if name in found:
            raise ConfigError(
                f"two adapters are to be served as {name!r}", hint="give one a name: name=ref"
            )
        found[name] = ref
    return found
