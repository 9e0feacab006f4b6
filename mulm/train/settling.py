"""Settles what a training config leaves open, and says why.

Called by the loop, by the dry run and by entry points before they start workers. Invariant: a pure
function of the config, the dataset version and the model that training begins with, so that every
worker and every resume settles alike; a settled config stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mulm.config import parse_config
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.stored import model_config
from mulm.store import Store
from mulm.train import dial
from mulm.train.config import TrainConfig
from mulm.train.settled import SettledConfig


class Settled(NamedTuple):
    """The config, and why its automatic values are what they are, a line for each."""

    config: SettledConfig
    reasons: tuple[str, ...]


def settle(
    config: TrainConfig, store: Store, dataset: Manifest, models: Mapping[str, Manifest]
) -> Settled:
    """Set what the config leaves `auto`.

    Raises:
        ConfigError: values that were given do not go together with those that are set.
        NotFoundError, CorruptError: the config of the model that training begins with.
    """
    given = {key: value for key, value in _dotted(config.model_dump()) if value != "auto"}
    chosen: dict[str, dial.Choice] = {}
    if not dial.RULES.keys() <= given.keys():
        shape = run_shape(config, store, dataset, models)
        chosen = dial.choose(_scale(config, shape, dataset), given)
    values = config.model_dump()
    for key, choice in chosen.items():
        *sections, last = key.split(".")
        part = values
        for section in sections:
            part = part[section]
        part[last] = choice.value
    reasons = tuple(f"{key} {value:,} ({why})" for key, (value, why) in chosen.items())
    return Settled(parse_config(SettledConfig, values), reasons)


def run_shape(
    config: TrainConfig, store: Store, dataset: Manifest, models: Mapping[str, Manifest]
) -> MicroLMConfig:
    """The shape of the model that is trained: of the one it begins with, or the config's.

    Raises:
        NotFoundError, CorruptError: the config of the model that training begins with.
        ConfigError, UnknownNameError: the config's shape is impossible.
    """
    beginning = models.get("init_from")
    if beginning:
        return model_config(store, beginning)
    return config.shape(int(dataset.counts["vocab_size"]))


def _scale(config: TrainConfig, shape: MicroLMConfig, dataset: Manifest) -> dial.Scale:
    stage: dial.Stage = "tuning" if config.init_from else "pretraining"
    if config.preference:
        stage = "preference"
    pack = dataset.config.get("pack") or {}
    return dial.Scale(
        n_parameters=shape.n_parameters,
        d_model=shape.d_model,
        max_seq_len=shape.max_seq_len,
        train_tokens=int(dataset.counts.get("train_tokens", 0)),
        n_pairs=int(dataset.counts.get("train_documents", 0)),
        stage=stage,
        is_muon=config.optimizer.kind == "muon",
        packed_seq_len=pack.get("seq_len") if pack.get("mode") == "best_fit" else None,
    )


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
