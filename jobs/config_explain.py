"""Where each value of a config comes from: the file, `--set`, the environment, or a default.

Called by `mulm config explain`. Invariants: values are those that the work would run with, read the
same way; a secret of the environment is told as set or not set, never shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.config_explain_lines import lines_of_values
from mulm.config import Frozen, load_config, read_mapping
from mulm.data.recipe import Recipe
from mulm.errors import ConfigError, nearest
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.model.compress_config import CompressConfig
from mulm.origin_trouble import shown
from mulm.settings import Settings, variable_of
from mulm.store import STORE_URL
from mulm.train.config import TrainConfig
from serve_app.settings import AppArgs

SCHEMAS: Mapping[str, type[Frozen]] = {
    "train": TrainConfig,
    "data": Recipe,
    "eval": EvaluateConfig,
    "compress": CompressConfig,
    "serve": AppArgs,
}
"""By the verb that reads such a config."""

Origin = Literal["default", "file", "set", "environment"]

SECRETS = frozenset({"MULM_API_KEY", "HF_TOKEN"})
_OTHERS: Mapping[str, str] = {
    STORE_URL: "",
    "MULM_URL": "",
    "MULM_API_KEY": "",
    "MULM_PRICE_PER_KWH": "",
    "MULM_TORCH": "",
    "HF_ENDPOINT": "https://huggingface.co",
    "HF_TOKEN": "",
}
"""Variables that are no fields of `Settings`, and what holds without them."""
_OF_CLUSTERS = frozenset({"MULM_CLUSTER", "MULM_TEMP_DIR"})
"""Set by the application for its own processes."""
_OF_TESTS = ("MULM_TEST_", "MULM_BENCH_", "MULM_CHAT_SAMPLES", "MULM_PORTABLE")


@dataclass(frozen=True, slots=True)
class Explained:
    """One value."""

    key: str
    value: Any
    origin: Origin
    where: str
    """`demo.yaml:3`, the text of a `--set`, the name of a variable; empty for a default."""


def explain_config(
    path: Path, overrides: Sequence[str], kind: str | None = None
) -> tuple[str, list[Explained]]:
    """The kind of a config, and each of its values in the order of the schema.

    Args:
        path: The file.
        overrides: What `--set` was given.
        kind: One of `SCHEMAS`; by default the one whose keys the file has.

    Raises:
        ConfigError: the file fits several kinds or none; all that `load_config` raises.
    """
    kind = kind or kind_of(read_mapping(path), str(path))
    config = load_config(SCHEMAS[kind], path, overrides)
    lines = lines_of_values(path.read_text(encoding="utf-8"))
    given = [(tuple(text.partition("=")[0].split(".")), text) for text in overrides]

    def explained(at: tuple[str, ...], value: Any) -> Explained:
        for target, text in reversed(given):
            if at[: len(target)] == target:
                return Explained(".".join(at), value, "set", f"--set {text}")
        if at in lines:
            return Explained(".".join(at), value, "file", f"{path}:{lines[at]}")
        return Explained(".".join(at), value, "default", "")

    return kind, [explained(at, value) for at, value in _flat(config.model_dump(mode="json"))]


def kind_of(values: Mapping[str, Any], name: str) -> str:
    """The kind of config whose schema knows the most of the keys. Raises ConfigError."""
    known = {
        kind: len(values.keys() & schema.model_fields.keys()) for kind, schema in SCHEMAS.items()
    }
    most = max(known.values())
    best = [kind for kind, n in known.items() if n == most]
    if most == 0 or len(best) > 1:
        raise ConfigError(
            f"{name!r} may be a config for {' or '.join(best if most else SCHEMAS)}",
            hint=f"say which: --kind {best[0]}",
        )
    return best[0]


def explain_settings(env: Mapping[str, str] = os.environ) -> list[Explained]:
    """What the environment says: each setting of the application, and the variables beside them.

    Raises:
        ConfigError: a value that does not fit.
    """
    settings = Settings.from_env(env)
    found: list[tuple[str, Any]] = [("MULM_HOME", str(Home.from_env(env).root))]
    found += [
        (variable_of(field), value) for field, value in settings.model_dump(mode="json").items()
    ]
    found += [(name, _shown(name, env.get(name) or default)) for name, default in _OTHERS.items()]
    return [
        Explained(name, value, *(("environment", name) if env.get(name) else ("default", "")))
        for name, value in found
    ]


def unknown_variables(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`MULM_` variables that nothing reads, each with the hint that may mend it."""
    known = {"MULM_HOME", *map(variable_of, Settings.model_fields), *_OTHERS} - {"HF_TOKEN"}
    return {
        name: nearest(name, known)
        for name in sorted(env)
        if name.startswith("MULM_")
        and name not in known | _OF_CLUSTERS
        and not name.startswith(_OF_TESTS)
    }


def _shown(name: str, value: str) -> str | None:
    if name in SECRETS:
        return "(set)" if value else None
    return shown(value) or None


def _flat(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested values; an empty section and a list of plain values is a leaf itself."""
    inner: Iterator[tuple[str, Any]] | None = None
    if isinstance(value, dict) and value:
        inner = iter(value.items())
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        inner = ((str(place), one) for place, one in enumerate(value))
    if inner is None:
        yield at, value
        return
    for key, one in inner:
        yield from _flat(one, (*at, key))
