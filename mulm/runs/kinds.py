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
from mulm.manifest import Kind
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
    """What a run reads: field to (kind, reference), as `{"dataset": ("dataset", "books@3")}`.

    Of a field with several references the last one; `reads` knows all.
    """
    return {field: (kind, ref) for field, kind, ref in _references(run)}


def reads(run: Run, kind: Kind, ref: str) -> bool:
    """Whether a run names that version; of a kind that is not known here, whether it may."""
    if run.kind not in SCHEMAS:
        return ref in run.texts
    return (kind, ref) in {(of_kind, named) for _, of_kind, named in _references(run)}


def _references(run: Run) -> Iterator[tuple[str, Kind, str]]:
    if run.kind in SCHEMAS:
        for field, kind in SCHEMAS[run.kind].REFERENCES.items():
            for ref in _at(run.config, field):
                yield field, kind, ref


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
