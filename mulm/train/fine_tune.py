"""Fine-tuning as one run: uploaded conversations to a dataset, and a model that has learned them.

The config of a run of the kind `fine_tune`, and what its two steps are given. Light: needs no
torch. Invariant: the dataset is made with the tokenizer of the model that is tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mulm.config import Frozen
from mulm.data.recipe import PackRule, Recipe, SplitRule, TokenizerSpec
from mulm.data.rules import CleanRules
from mulm.data.source_spec import FileContent, SourceSpec
from mulm.errors import ConflictError, MulmError
from mulm.facts import Facts
from mulm.field_words import Told
from mulm.lineage import with_ancestors
from mulm.manifest import Kind, Manifest
from mulm.records import Version
from mulm.refs import check_name, parse_ref
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.limits import Seed
from mulm.train.settled import SettledConfig
from mulm.train.stages_config import LoraConfig

LONGEST_SEQ_LEN = 2048
_MOST_EPOCHS, _MOST_ROWS, _MOST_TIMES = 100, 1024, 100
Auto = Literal["auto"]
Epochs = Annotated[
    Auto | Annotated[int, Field(strict=True, ge=1, le=_MOST_EPOCHS)],
    Told(f"be 'auto' or a whole number from 1 to {_MOST_EPOCHS}"),
]
BatchRows = Annotated[
    Auto | Annotated[int, Field(strict=True, ge=1, le=_MOST_ROWS)],
    Told(f"be 'auto' or a whole number from 1 to {_MOST_ROWS}"),
]
RateMultiplier = Annotated[
    Auto | Annotated[float, Field(gt=0, le=_MOST_TIMES)],
    Told(f"be 'auto' or a number above 0, {_MOST_TIMES} at most"),
]
_SPLIT = SplitRule(validation_fraction=0.05)


class FineTuneConfig(Frozen):
    """One fine-tuning."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"training_file", "validation_file", "metadata"}
    )
    REFERENCES: ClassVar[Mapping[str, Kind]] = {"model": "model"}

    name: str
    """Dataset and model are published under this name."""
    model: str
    """The model that is tuned."""
    training_file: str
    """The id of an uploaded file: JSONL, a conversation a line."""
    validation_file: str | None = None
    """By default a twentieth of the training file is held out."""
    training: FileContent | None = None
    """What `training_file` means; filled in when the run begins, as is the next one."""
    validation: FileContent | None = None
    n_epochs: Epochs = "auto"
    batch_size: BatchRows = "auto"
    """Rows of a step; a row is filled with whole conversations."""
    learning_rate_multiplier: RateMultiplier = "auto"
    """Of the rates that training chooses by itself."""
    lora: bool = False
    """Learn adapters beside the frozen weights."""
    seed: Seed = 0
    metadata: dict[str, str] = {}
    """A client's notes."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        try:
            return check_name(name)
        except MulmError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None


def tokenizer_of(model: Manifest, store: Store, facts: Facts) -> Version:
    """The published tokenizer that a model reads with.

    Raises:
        ConflictError: it has no name here, so that no dataset can be built with it.
    """
    for manifest in with_ancestors(store, [model.id]).values():
        is_its_own = manifest.tokenizer_fingerprint == model.tokenizer_fingerprint
        if manifest.kind == "tokenizer" and is_its_own:
            for version in facts.published_as(manifest.id):
                return version
    raise ConflictError(
        "the tokenizer of this model has no name here, so no dataset can be built with it",
        hint="fine-tune a model that was trained or imported here",
    )


def recipe_of(config: FineTuneConfig, model: Manifest, tokenizer: Version, window: int) -> Recipe:
    """How the files become a dataset: every conversation whole, as far as the window goes."""
    assert config.training is not None, "the caller resolves the files"
    sources = [SourceSpec(type="jsonl", name="training", content=config.training)]
    if config.validation is not None:
        held_out = SourceSpec(
            type="jsonl", name="validation", content=config.validation, held_out=True
        )
        sources.append(held_out)
    return Recipe(
        name=config.name,
        sources=tuple(sources),
        clean=CleanRules(min_chars=1),
        split=_SPLIT,
        tokenizer=TokenizerSpec(ref=tokenizer.ref, fingerprint=model.tokenizer_fingerprint),
        pack=PackRule(mode="best_fit", seq_len=min(window, LONGEST_SEQ_LEN)),
    )


def first_guess(config: FineTuneConfig, dataset: str, seq_len: int) -> TrainConfig:
    """The training, with what is left open still `auto`."""
    values: dict[str, Any] = {
        "name": config.name,
        "dataset": dataset,
        "init_from": config.model,
        "documents": "apart",
        "lora": LoraConfig().model_dump() if config.lora else None,
        "seed": config.seed,
        "seq_len": seq_len,
    }
    if config.batch_size != "auto":
        values["batch_tokens"] = config.batch_size * seq_len
    return TrainConfig.model_validate(values)


def with_epochs(
    config: FineTuneConfig, guess: TrainConfig, settled: SettledConfig, train_tokens: int
) -> TrainConfig:
    """The training with as many steps as `n_epochs` readings take."""
    if config.n_epochs == "auto":
        return guess
    steps = max(1, round(config.n_epochs * train_tokens / settled.batch_tokens))
    return TrainConfig.model_validate(guess.model_dump() | {"steps": steps})


def with_rates(config: FineTuneConfig, guess: TrainConfig, settled: SettledConfig) -> TrainConfig:
    """The training with `learning_rate_multiplier` times the rates that it would have."""
    if config.learning_rate_multiplier == "auto":
        return guess
    rates = {
        name: min(1.0, getattr(settled.optimizer, name) * config.learning_rate_multiplier)
        for name in ("matrix_lr", "embedding_lr")
    }
    values = guess.model_dump()
    return TrainConfig.model_validate(values | {"optimizer": values["optimizer"] | rates})


def model_of(config: FineTuneConfig, store: Store, facts: Facts) -> Manifest:
    """The model that is tuned. Raises NotFoundError."""
    return store.load(facts.resolve("model", parse_ref(config.model)).manifest_id)
