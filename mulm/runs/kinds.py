"""The kinds of runs: the schema of each one's config, what names it, what it refers to.

Called by whatever shows runs or goes on with one. Invariant: a run of a kind that is not known here
is still listed and shown; it only cannot be gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mulm.batch import BatchConfig
from mulm.config import Frozen
from mulm.data.recipe import Recipe
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.eval.config import EvaluateConfig
from mulm.model.compress_config import CompressConfig
from mulm.model.exchange_config import ExportConfig, ImportConfig
from mulm.records import Run
from mulm.train.config import TrainConfig
from mulm.train.fine_tune import FineTuneConfig

TRAIN = "train"

SCHEMAS: Mapping[str, type[Frozen]] = {
    "prepare": Recipe,
    TRAIN: TrainConfig,
    "train_tokenizer": TokenizerConfig,
    "evaluate": EvaluateConfig,
    "compress": CompressConfig,
    "fine_tune": FineTuneConfig,
    "batch": BatchConfig,
    "model_export": ExportConfig,
    "model_import": ImportConfig,
}


def name_of(run: Run) -> str:
    """What a person calls a run: the name that it publishes, else the model that it reads."""
    return str(run.config.get("name") or run.config.get("model") or "")


def references_of(run: Run) -> dict[str, tuple[str, str]]:
    """What a run reads: field to (kind, reference), as `{"dataset": ("dataset", "books@3")}`."""
    if run.kind not in SCHEMAS:
        return {}
    return {
        field: (kind, ref)
        for field, kind in SCHEMAS[run.kind].REFERENCES.items()
        for ref in _at(run.config, field)
    }


def _at(values: Any, path: str) -> Iterator[str]:
    """The texts where a dotted path ends; nothing where it leads nowhere."""
    field, _, rest = path.partition(".")
    value = values.get(field) if isinstance(values, dict) else None
    if rest:
        yield from _at(value, rest)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (inner for inner in value if isinstance(inner, str))
