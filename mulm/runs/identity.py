"""What a run is identified by: its config, and the versions that its references mean today.

Used by the entry points, the command line and the HTTP API, so that all derive the same run id.
Light: imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import mulm
from mulm.batch import BatchConfig
from mulm.config import Frozen, canonical_json
from mulm.data.build import CODE_VERSION
from mulm.data.build_documents import foreign_code
from mulm.data.recipe import Recipe
from mulm.data.source_spec import FileContent, SourceSpec
from mulm.data.sources.listing import checksum, identities
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.errors import ConfigError
from mulm.eval.config import EvaluateConfig
from mulm.eval.held_out import require_dataset
from mulm.eval.suite_data import SuiteData, find_suites
from mulm.eval.suites.registry import ALL
from mulm.facts import Facts
from mulm.manifest import Kind
from mulm.model.compress_config import COMPRESS_VERSION, CompressConfig
from mulm.model.exchange_config import EXCHANGE_VERSION, ExportConfig, ImportConfig
from mulm.records import UserFile
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.train.config import TRAIN_VERSION, TrainConfig
from mulm.train.fine_tune import FineTuneConfig, model_of, tokenizer_of

C = TypeVar("C", bound=Frozen)

SAMPLES = Path(__file__).resolve().parents[2] / "corpora" / "eval"
"""A few items of some suites, so that they can be tried without a network."""


def run_id_of(kind: str, config: Frozen, identity: Mapping[str, Any] | None = None) -> str:
    """The id of the run that this config is: `run_` and 12 hex digits of a SHA-256."""
    values = {
        "kind": kind,
        "code": mulm.__version__,
        "config": identity_of(config),
        "identity": dict(identity or {}),
    }
    return f"run_{sha256(canonical_json(values)).hexdigest()[:12]}"


def identity_of(config: Frozen) -> dict[str, Any]:
    """The part of a config that decides the result."""
    return config.model_dump(mode="json", exclude=set(config.NOT_IDENTITY))


def pinned(config: C, facts: Facts) -> C:
    """The config with each reference as the version, each file as the bytes, that it means today.

    So `books`, `books@3` and an alias of it are one run, for as long as they mean the same.

    Raises:
        NotFoundError: there is no such version, or no such file.
    """
    for path, kind in config.REFERENCES.items():
        config = _pinned_at(config, path.split("."), kind, facts)
    if isinstance(config, Recipe):
        return cast(C, _with_contents(config, facts))
    if isinstance(config, BatchConfig):
        return cast(C, _with_input(config, facts))
    if isinstance(config, ImportConfig):
        return cast(C, _with_uploads(config, facts))
    return cast(C, _with_files(config, facts)) if isinstance(config, FineTuneConfig) else config


def _pinned_at(config: C, path: Sequence[str], kind: Kind, facts: Facts) -> C:
    field, *rest = path
    value = getattr(config, field)
    if rest:
        value = _pinned_at(value, rest, kind, facts)
    elif isinstance(value, tuple):
        value = tuple(facts.resolve(kind, parse_ref(ref)).ref for ref in value)
    elif value is not None:
        value = facts.resolve(kind, parse_ref(value)).ref
    return config.model_copy(update={field: value})


def _with_contents(recipe: Recipe, facts: Facts) -> Recipe:
    sources = tuple(_with_content(spec, facts) for spec in recipe.sources)
    return recipe.model_copy(update={"sources": sources})


def _with_files(config: FineTuneConfig, facts: Facts) -> FineTuneConfig:
    if config.training is not None:  # it goes on with what it began with
        return config
    validation = config.validation_file
    return config.model_copy(
        update={
            "training": _content(facts.file(config.training_file)),
            "validation": None if validation is None else _content(facts.file(validation)),
        }
    )


def _with_input(config: BatchConfig, facts: Facts) -> BatchConfig:
    if config.input is not None:  # it goes on with what it began with
        return config
    return config.model_copy(update={"input": _content(facts.file(config.input_file))})


def _with_uploads(config: ImportConfig, facts: Facts) -> ImportConfig:
    if config.contents:  # it goes on with what it began with
        return config
    found = {name: _content(facts.file(file_id)) for name, file_id in config.files.items()}
    return config.model_copy(update={"contents": found})


def _content(file: UserFile) -> FileContent:
    return FileContent(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes)


def _with_content(spec: SourceSpec, facts: Facts) -> SourceSpec:
    if spec.file is None:
        return spec
    found = facts.file(spec.file)
    if spec.sha256 not in (None, found.sha256):
        raise ConfigError(
            f"{found.id} has the checksum {found.sha256}", hint="name that one, or none"
        )
    return spec.model_copy(update={"file": None, "content": _content(found)})


def prepare_identity(recipe: Recipe, facts: Facts, store: Store) -> dict[str, Any]:
    """The names and checksums of all files that are read, the versions that are named, the code."""
    ref = recipe.tokenizer.ref
    evaluations = recipe.decontaminate.paths if recipe.decontaminate else ()
    return {
        "files": identities(recipe, store),
        "tokenizer": facts.resolve("tokenizer", parse_ref(ref)).manifest_id if ref else None,
        "against": [
            facts.resolve("dataset", parse_ref(known)).manifest_id for known in recipe.dedup.against
        ],
        "evaluations": [checksum(path) for path in evaluations],
        "build": CODE_VERSION,
        "foreign_code": foreign_code(recipe),
    }


def tokenizer_identity(config: TokenizerConfig, facts: Facts, _store: Store) -> dict[str, Any]:
    """The dataset version, the code."""
    return {
        "dataset": facts.resolve("dataset", parse_ref(config.dataset)).manifest_id,
        "build": CODE_VERSION,
    }


def train_identity(config: TrainConfig, facts: Facts, _store: Store) -> dict[str, Any]:
    """The dataset version, the models that it begins with and learns from, the training loop."""
    models = {"init_from": config.init_from, "teacher": config.teacher}
    return {
        "dataset": facts.resolve("dataset", parse_ref(config.dataset)).manifest_id,
        "train": TRAIN_VERSION,
        **{
            role: facts.resolve("model", parse_ref(ref)).manifest_id
            for role, ref in models.items()
            if ref
        },
    }


def evaluate_identity(config: EvaluateConfig, facts: Facts, store: Store) -> dict[str, Any]:
    """The model version, the dataset version if one is named, and what the suites' files hold.

    Raises:
        NotFoundError: nothing says which text bits per byte shall be measured on; where all is
            asked for, they are passed over.
    """
    manifest_id = facts.resolve("model", parse_ref(config.model)).manifest_id
    identity: dict[str, Any] = {"model": manifest_id}
    if config.has_bits_per_byte and ALL not in config.suites:
        require_dataset(config, store.load(manifest_id))
    if config.dataset is not None:
        identity["dataset"] = facts.resolve("dataset", parse_ref(config.dataset)).manifest_id
    if config.suite_names:
        files = suite_data(config, store).files
        identity["suites"] = {name: found.identity for name, found in files.items()}
    return identity


def suite_data(config: EvaluateConfig, store: Store) -> SuiteData:
    """The files of the suites of a config; what lies elsewhere is brought."""
    return find_suites(config, SAMPLES, store.downloads)


def compress_identity(config: CompressConfig, facts: Facts, _store: Store) -> dict[str, Any]:
    """The model version, the code."""
    return {
        "model": facts.resolve("model", parse_ref(config.model)).manifest_id,
        "compress": COMPRESS_VERSION,
    }


def fine_tune_identity(config: FineTuneConfig, facts: Facts, store: Store) -> dict[str, Any]:
    """The model version and its tokenizer, the code of both steps; files stand in the config."""
    model = model_of(config, store, facts)
    return {
        "model": model.id,
        "tokenizer": tokenizer_of(model, store, facts).manifest_id,
        "build": CODE_VERSION,
        "train": TRAIN_VERSION,
    }


def batch_identity(_config: BatchConfig, _facts: Facts, _store: Store) -> dict[str, Any]:
    """Nothing beside the config: what is served answers, whatever that is by then."""
    return {}


def export_identity(config: ExportConfig, facts: Facts, _store: Store) -> dict[str, Any]:
    """The model version, the code."""
    return {
        "model": facts.resolve("model", parse_ref(config.model)).manifest_id,
        "exchange": EXCHANGE_VERSION,
    }


def import_identity(_config: ImportConfig, _facts: Facts, _store: Store) -> dict[str, Any]:
    """The code; uploaded files stand in the config by their contents."""
    return {"exchange": EXCHANGE_VERSION}


IDENTITIES: Mapping[str, Callable[[Any, Facts, Store], dict[str, Any]]] = {
    "prepare": prepare_identity,
    "train_tokenizer": tokenizer_identity,
    "train": train_identity,
    "evaluate": evaluate_identity,
    "compress": compress_identity,
    "fine_tune": fine_tune_identity,
    "batch": batch_identity,
    "model_export": export_identity,
    "model_import": import_identity,
}
"""What identifies a run of each kind beside its config."""
