"""Make a model smaller: `python -m jobs.compress --config FILE`, a Ray job.

Stores a new version whose parent is the model; that one stays. Invariant: the same model compressed
in the same way is the same version.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import sys
from collections.abc import Sequence
from typing import Any

import torch

from jobs.entry import JobContext, run_job
from mulm.data.loader import TokenLoader
from mulm.errors import NotFoundError
from mulm.manifest import Manifest
from mulm.model.compress_config import CompressConfig
from mulm.model.importance import Batch
from mulm.model.microlm import MicroLM
from mulm.model.prune import prune_model
from mulm.model.quantize import Bits
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import TOKENIZER, WEIGHTS, load_model, require_whole, store_model
from mulm.refs import parse_ref
from mulm.runs.identity import compress_identity
from mulm.train.device import choose_device
from mulm.train.loss import sum_cross_entropy

_BYTES_PER_BF16 = 2
_MAX_SAMPLE_SEQ_LEN = 512


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("compress", arguments, CompressConfig, compress, compress_identity)


def compress(context: JobContext, config: CompressConfig) -> dict[str, Any]:
    """Make, store and publish the smaller model; returns the run's result.

    Raises:
        NotFoundError: no such model, or one to be pruned does not say what it was trained on.
        ConflictError: it is quantised already.
        ConfigError: `keep` is less than what cannot be cut.
        DataError: a weight is not finite.
        DeviceError: the device that was asked for is absent.
    """
    version = context.facts.resolve("model", parse_ref(config.model))
    source = context.store.load(version.manifest_id)
    require_whole(context.store, source, version.ref)
    if config.format == "pruned":
        smaller = _prune(context, config, source)
    else:
        smaller = _quantize(context, config.format, source)
    manifest = _store(context, config, source, smaller)
    published = context.facts.publish("model", config.result_name, manifest.id)
    return {
        "model": published.ref,
        "model_id": manifest.id,
        "source": version.ref,
        "to": config.format,
        "parameters": int(manifest.counts["parameters"]),
        "size_bytes": manifest.blob(WEIGHTS).size_bytes,
        "share": round(_share(config, source, manifest), 4),
    }


def _share(config: CompressConfig, source: Manifest, smaller: Manifest) -> float:
    """Of the parameters; where all of them stay, of the bytes that they take in bf16."""
    n_parameters = int(source.counts["parameters"])
    if config.format == "pruned":
        return int(smaller.counts["parameters"]) / n_parameters
    return smaller.blob(WEIGHTS).size_bytes / (_BYTES_PER_BF16 * n_parameters)


def _quantize(context: JobContext, bits: Bits, source: Manifest) -> MicroLM:
    context.emit("log", text=f"rounding {source.counts['parameters']:,} weights to {bits}")
    model = load_model(context.store, source)
    return QuantizedMicroLM.of(model, Quantization(linear=bits, embedding=bits))


def _prune(context: JobContext, config: CompressConfig, source: Manifest) -> MicroLM:
    assert config.keep is not None, "a config for `pruned` has its defaults filled in"
    device, reason = choose_device(config.device)
    context.emit("log", text=f"device {device}: {reason}")
    model = load_model(context.store, source, torch.device(device))
    batches = _sample(context, config, source, model.config.max_seq_len)

    def tell(done: int, total: int) -> None:
        context.emit("progress", stage="prune", done=done, total=total, unit="shapes")

    pruned = prune_model(model, batches, sum_cross_entropy, config.keep, tell)
    for shape, loss in pruned.losses:
        context.emit(
            "log",
            text=f"{shape.n_layers} layers, {shape.n_kv_heads} kv heads, d_ff {shape.d_ff}:"
            f" {loss:.3f} nats a token",
        )
    return pruned.model


def _sample(
    context: JobContext, config: CompressConfig, source: Manifest, max_seq_len: int
) -> list[Batch]:
    """The first training batches, in the order in which the loader draws them."""
    if "dataset" not in source.parents:
        raise NotFoundError(
            f"{source.id} does not say which dataset it was trained on",
            hint="pruning measures on training text: prune a model that was trained here",
        )
    dataset = context.store.load(source.parents["dataset"])
    trained = int(source.config.get("seq_len", _MAX_SAMPLE_SEQ_LEN))
    seq_len = min(trained, max_seq_len, _MAX_SAMPLE_SEQ_LEN)
    loader = TokenLoader(context.store, dataset, seq_len=seq_len)
    assert config.sample_tokens is not None
    n_rows = max(1, min(loader.n_windows, config.sample_tokens // seq_len))
    x_BT, y_BT = loader.batch(0, n_rows)
    return list(zip(torch.split(x_BT, 8), torch.split(y_BT, 8), strict=True))


def _store(
    context: JobContext, config: CompressConfig, source: Manifest, smaller: MicroLM
) -> Manifest:
    asked = config.model_dump(
        mode="json", include={"to", "keep", "sample_tokens"}, exclude_none=True
    )
    # The dataset stays a parent: evaluation finds its held-out text there.
    parents = {role: id_ for role, id_ in source.parents.items() if role == "dataset"}
    return store_model(
        context.store,
        smaller,
        context.store.read(source.blob(TOKENIZER)),
        source.tokenizer_fingerprint or "",
        config={**source.config, "compress": asked},
        parents={**parents, "model": source.id},
        licences=source.licences,
        counts={k: v for k, v in source.counts.items() if k != "parameters"},
    )


if __name__ == "__main__":
    sys.exit(main())
