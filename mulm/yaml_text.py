"""YAML as people write it: one meaning for each key, problems told by line.

Called by `mulm.config`. PyYAML is asked for only here, and only when there is YAML to read: the
bare GPU machine has none and reads JSON. Invariant: a key that stands twice in one mapping is an
error, where PyYAML would take the last one without a word.
"""

from __future__ import annotations

import re
from typing import Any

from mulm.errors import ConfigError

MOST_VALUES = 100_000
"""In one document, counting what an alias stands for each time."""
_HINT = "write `key: value` lines, what belongs to a section indented by spaces"


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document; `name` tells where it stood.

    Raises:
        ConfigError: it is none, a key stands twice, or aliases make it huge.
    """
    import yaml

    try:
        value = yaml.load(text, _loader())  # noqa: S506 a safe loader with one more check
    except (yaml.YAMLError, ValueError) as error:  # the latter of a day 2001-14-55, of long digits
        raise ConfigError(f"{name} is not valid YAML: {_described(error)}", hint=_HINT) from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply", hint=_HINT) from None
    return _limited(value, name)


def parse_flow(text: str) -> Any:
    """A list or a mapping in YAML's short form, such as `[a, b]`; other text is itself."""
    if not text.startswith(("[", "{")):
        return text
    try:
        import yaml
    except ImportError:
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return _limited(value, "what is set")


def _limited(value: Any, name: str) -> Any:
    """The value itself; its aliases are followed, since whoever walks through it does so too."""
    waiting, n_seen = [value], 0
    while waiting:
        n_seen += 1
        if n_seen > MOST_VALUES:
            raise ConfigError(
                f"{name} holds more than {MOST_VALUES:,} values",
                hint="aliases that repeat one another grow without a bound: write values out",
            )
        current = waiting.pop()
        if isinstance(current, dict):
            waiting += current.values()
        elif isinstance(current, list | tuple | set):
            waiting += current
    return value


def _loader() -> type[Any]:
    import yaml

    class OneMeaning(yaml.SafeLoader):
        """Refuses keys that stand twice, and numbers that a person reads otherwise."""

        def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
            """As its parent, but no octal 010 and no sexagesimal 1:30."""
            if re.match(r"[-+]?0[0-9_]|.*:", node.value):
                raise yaml.constructor.ConstructorError(
                    None, None, f"{node.value} is no plain number", node.start_mark
                )
            return int(super().construct_yaml_int(node))

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            """As its parent, after a look at the keys."""
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    OneMeaning.add_constructor("tag:yaml.org,2002:int", OneMeaning.construct_yaml_int)
    return OneMeaning


def _described(error: Any) -> str:
    """A YAML error in one line; `error` is a `yaml.YAMLError`, which may have no mark."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem or mark is None:
        return " ".join(str(error).split())
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"
