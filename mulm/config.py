"""Configuration: one schema, three doors (YAML file, `--set`, HTTP body).

`Frozen` is the base of everything that stands at a border: configs, recipes, manifests,
HTTP bodies. Entry points read once with `load_config` and pass the object down.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from mulm.config_words import what_is_wrong
from mulm.errors import ConfigError, NotFoundError, UnknownNameError, nearest
from mulm.yaml_text import parse_flow, parse_yaml


class Frozen(BaseModel):
    """An immutable schema that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset()
    """Fields of a job's config that do not change its result: a run may go on with others."""
    REFERENCES: ClassVar[Mapping[str, Any]] = {}
    """Fields, with dots where nested, that refer to a version (`books@3`): their `Kind`s."""


C = TypeVar("C", bound=Frozen)
_MOST_CHARS = 80
"""Of a wrong value that is shown."""


def load_config(
    schema: type[C], source: Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()
) -> C:
    """Read a YAML or JSON file, or take values; apply `key.path=value` overrides, validate.

    Raises:
        NotFoundError: no such file.
        UnknownNameError: an unknown key; the hint names the nearest known one.
        ConfigError: anything else that does not fit the schema.
    """
    values = read_mapping(source) if isinstance(source, Path) else dict(source or {})
    for override in overrides:
        _apply(values, override)
    return parse_config(schema, values)


def parse_config(schema: type[C], values: Mapping[str, Any]) -> C:
    """Validate plain values; the first problem becomes one clear error."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(schema, error) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (`.yaml`, `.yml`) or JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {str(path)!r}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        hint = "it must be a file of UTF-8 text that you may read"
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {str(path)!r}: {reason}", hint=hint) from None
    values = (
        parse_yaml(text, repr(str(path))) or {}
        if path.suffix in {".yaml", ".yml"}
        else _parse_json(text, path)
    )
    if not isinstance(values, dict):
        raise ConfigError(f"{str(path)!r} holds no mapping", hint="write `key: value` lines")
    return values


def keys_at(schema: Any, loc: Sequence[int | str]) -> list[str]:
    """The keys that a schema, or a type that holds some, knows where `loc` ends."""
    return sorted({key for model in _models_at(_models_in(schema), loc) for key in _keys(model)})


def canonical_json(values: object) -> bytes:
    """The one JSON text of a value, for hashing: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # also a key twice, a number too long
        told = f"{str(path)!r} is not valid JSON: {error}"
        raise ConfigError(told, hint="check that place, or write YAML into a .yaml file") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping in which no key stands twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        (key, _), *_ = (pair for pair in pairs if [key for key, _ in pairs].count(pair[0]) > 1)
        raise ValueError(f"the key {key!r} stands twice")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override", hint="write --set key.path=value")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            told = f"{key!r}: {parent!r} holds a value, not a section"
            raise ConfigError(told, hint=f"write --set {parent}=VALUE")
    values[last] = _parse_scalar(text)


def _parse_scalar(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return parse_flow(text)


def _explain(schema: type[BaseModel], error: ValidationError) -> ConfigError | UnknownNameError:
    errors = error.errors(include_url=False)
    first = _first(errors)
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = keys_at(schema, first["loc"][:-1])
        hint = nearest(str(first["loc"][-1]), known)
        return UnknownNameError(f"unknown key {where!r}", hint=hint)
    if first["type"] == "missing":
        unknown = [str(e["loc"][-1]) for e in errors if e["type"] == "extra_forbidden"]
        hint = _mistyped(str(first["loc"][-1]), unknown) or (
            f"write `{first['loc'][-1]}: VALUE` into the file, or --set {where}=VALUE"
        )
        return ConfigError(f"{where}: is required", hint=hint)
    message = what_is_wrong(first)
    is_said = isinstance(first["input"], dict) or repr(first["input"]) in message
    given = "" if is_said else f" (given: {shorten(first['input'])})"
    told = f"{where}: {message}{given}" if where else message
    return ConfigError(told, hint=_possible(schema, first))


def _first(errors: Sequence[Any]) -> Mapping[str, Any]:
    """The first problem; of a key that may be `auto` as well, what is wrong with its number."""
    first, *others = errors
    if others and first["loc"][-1:] == ("literal['auto']",):
        return {**others[0], "loc": first["loc"][:-1]}
    return cast(Mapping[str, Any], first)


def shorten(value: object) -> str:
    """A value as a person is shown it, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."


def _mistyped(wanted: str, unknown: Sequence[str]) -> str:
    """What the keys that nobody knows may have been meant for; empty if there are none."""
    if difflib.get_close_matches(wanted, unknown, n=1, cutoff=0.6):
        return f"did you mean {wanted!r} where it says {unknown[0]!r}?"
    return f"{unknown[0]!r} is unknown here: is it for another command?" if unknown else ""


def _possible(schema: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """What could stand in the place of a bad value: the nearest word, or the default."""
    if problem["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return nearest(str(problem["input"]), words)
    if problem["type"] == "string_type" and not isinstance(problem["input"], dict | list):
        return "text that YAML would take for something else is written in quotes"
    field = _field_at(schema, problem["loc"])
    if field is None or field.default is None or isinstance(field.default, BaseModel):
        return "docs/configuration.md, or the command with --help, says what it takes"
    return f"the default is {field.default!r}"


def _field_at(schema: type[BaseModel], loc: Sequence[int | str]) -> FieldInfo | None:
    """The field that `loc` names; one with a default, where a union has several."""
    names = [part for part in loc if isinstance(part, str)]
    for last in range(len(names) - 1, -1, -1):
        fields = [m.model_fields.get(names[last]) for m in _models_at([schema], names[:last])]
        found = [field for field in fields if field and not field.is_required()]
        if found:
            return found[0]
    return None


def _models_at(models: list[type[BaseModel]], loc: Sequence[int | str]) -> list[type[BaseModel]]:
    """The schemas where `loc` ends, walking through lists, unions and optionals."""
    for part in loc:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [m for f in fields for m in _models_in(f.annotation)] or models
    return models


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]
