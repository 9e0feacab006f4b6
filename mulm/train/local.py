"""Training in this very process, without a cluster.

Called by `jobs.train` for one worker, by tests, and on bare GPU machines. The loop is the
same as on a cluster; only the context differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mulm.data.loader import TokenLoader
from mulm.data.pairs import require_pairs
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, TokenizerMismatchError
from mulm.eval.compression import to_bits_per_byte
from mulm.facts import Facts
from mulm.home import Home
from mulm.manifest import Manifest
from mulm.model.compiled import keep_compiled_in
from mulm.model.stored import model_config, require_whole
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.train.config import TrainConfig, require_one_worker
from mulm.train.context import LocalContext
from mulm.train.device import choose_device
from mulm.train.exporters.registry import require_exporters
from mulm.train.host_allocator import keep_freed_memory
from mulm.train.loop import train
from mulm.train.result import TrainResult
from mulm.train.samples import given_prompts
from mulm.train.settled import SettledConfig
from mulm.train.settling import Settled, run_shape, settle


def train_locally(
    config: TrainConfig,
    run_id: str,
    home: Home,
    store: Store,
    facts: Facts,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train with one worker, publish the model and return the run's result.

    The run must exist in the ledger; killed and called again, it continues.

    Raises:
        ConfigError: more than one worker was asked for, or `export_to` needs a package.
        DeviceError: the device that was asked for is absent.
        NotFoundError: no such dataset or model, or a file of it is missing.
        TokenizerMismatchError: a model was trained with another tokenizer than the dataset's.
        CorruptError, DataError: the dataset is damaged or too small for one window.
        StoppedError: `should_stop` said so, and a checkpoint was written.
    """
    require_one_worker(config)
    require_exporters(config.export_to)
    keep_compiled_in(home.compiled)
    keep_freed_memory()
    device, reason = choose_device(config.device)
    dataset = resolve_dataset(config, store, facts)
    models = resolve_models(config, dataset, store, facts)
    check_run(config, dataset, models, store)

    def on_event(kind: str, data: Mapping[str, Any]) -> None:
        facts.append_events(run_id, [(kind, data)])

    on_event("log", {"text": f"device {device}: {reason}"})
    context = LocalContext(
        store, dataset, home.run(run_id), torch.device(device), on_event, should_stop,
        models=models,
    )  # fmt: skip
    return publish_model(config, train(config, context), facts)


def resolve_dataset(config: TrainConfig, store: Store, facts: Facts) -> Manifest:
    """The dataset version that the config names, fit for its stage and for its shape.

    Raises:
        NotFoundError: no such dataset.
        DataError: there are no pairs to learn from.
        ConfigError, UnknownNameError: the model's shape is impossible.
    """
    version = facts.resolve("dataset", parse_ref(config.dataset))
    dataset = store.load(version.manifest_id)
    config.shape(int(dataset.counts["vocab_size"]))
    if config.preference:
        require_pairs(store, dataset)
    return dataset


def check_run(
    config: TrainConfig, dataset: Manifest, models: Mapping[str, Manifest], store: Store
) -> Settled:
    """Settle the config, and find now what would otherwise end the run on a worker or after hours.

    Raises:
        ConfigError: what was given does not go together with what was settled, or the window of a
            model is smaller than `seq_len`, or than a prompt of samples.
        NotFoundError, CorruptError: a file that training reads is missing or damaged.
        DataError: too few tokens for one window, or nothing held out.
    """
    settled = settle(config, store, dataset, models)
    for role, model in models.items():
        _require_window(f"{role}: the window of {getattr(config, role)}", model, settled, store)
    _check_dataset(settled.config, dataset, store)
    samples = settled.config.samples
    if samples and samples.prompts:
        tokenizer = Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json")))
        given_prompts(samples, tokenizer, run_shape(config, store, dataset, models).max_seq_len)
    return settled


def _check_dataset(config: SettledConfig, dataset: Manifest, store: Store) -> None:
    if config.preference:
        return
    TokenLoader(store, dataset, seq_len=config.seq_len)
    TokenLoader(store, dataset, "validation", seq_len=config.seq_len)
    store.read(dataset.blob("tokenizer.json"))
    to_bits_per_byte(0.0, dataset)


def resolve_models(
    config: TrainConfig, dataset: Manifest, store: Store, facts: Facts
) -> dict[str, Manifest]:
    """The models that the config refers to, by field, each fit for its part but for its window.

    Raises:
        NotFoundError, CorruptError: there is no such model, or it is damaged.
        TokenizerMismatchError: it was trained with another tokenizer than the dataset's.
        ConflictError: it is quantised, so that training cannot begin with it.
        ConfigError: its vocabulary has another size.
    """
    refs = {"init_from": config.init_from, "teacher": config.teacher}
    versions = {role: facts.resolve("model", parse_ref(ref)) for role, ref in refs.items() if ref}
    models = {role: store.load(version.manifest_id) for role, version in versions.items()}
    for role, model in models.items():
        _require_fit(role, versions[role].ref, model, dataset, store)
    return models


def _require_fit(role: str, ref: str, model: Manifest, dataset: Manifest, store: Store) -> None:
    if model.tokenizer_fingerprint != dataset.tokenizer_fingerprint:
        raise TokenizerMismatchError(
            f"{role}: {ref} reads with tokenizer {model.tokenizer_fingerprint}, the dataset"
            f" was made with {dataset.tokenizer_fingerprint}",
            hint='build the dataset with the model\'s: --set \'tokenizer={"ref": "NAME"}\'',
        )
    if role == "init_from":
        require_whole(store, model, f"{role}: {ref}")
    shape, n_ids = model_config(store, model), int(dataset.counts["vocab_size"])
    if shape.vocab_size != n_ids:
        raise ConfigError(
            f"{role}: {ref} has {shape.vocab_size} embeddings, the dataset has {n_ids} ids",
            hint="begin with, or learn from, a model without embeddings that stand for nothing",
        )
    store.path(model.blob("model.safetensors"))


def _require_window(what: str, model: Manifest, settled: Settled, store: Store) -> None:
    longest, seq_len = model_config(store, model).max_seq_len, settled.config.seq_len
    if longest < seq_len:
        raise ConfigError(
            f"{what} is {longest} tokens, seq_len is {seq_len}",
            hint=f"set seq_len to {longest} or less",
        )


def publish_model(config: TrainConfig, result: TrainResult, facts: Facts) -> dict[str, Any]:
    """Give the trained model its number; the same model keeps the one it has."""
    version = facts.publish("model", config.name, result.model_id)
    return {
        "model": version.ref,
        "model_id": result.model_id,
        "steps": result.steps,
        "loss": result.loss,
        f"validation_{result.judged_by}": result.validation,
        "tokens_per_s": result.tokens_per_s,
        "parameters": result.parameters,
    }
