"""Evaluate a model on held-out text: `python -m jobs.evaluate --config FILE`, a Ray job.

Prints bits per byte of the model beside those of `xz -9e` on the same text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from jobs.entry import JobContext, run_job
from jobs.identity import evaluate_identity
from mulm.errors import NotFoundError, TokenizerMismatchError
from mulm.eval.compression import bits_per_byte, xz_bits_per_byte
from mulm.eval.config import EvaluateConfig
from mulm.eval.gate import judge
from mulm.manifest import Manifest
from mulm.model.stored import load_ready_model, model_config
from mulm.refs import parse_ref
from mulm.train.device import DTYPES, choose_device, choose_precision

_PROGRESS_INTERVAL_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("evaluate", arguments, EvaluateConfig, evaluate, evaluate_identity)


def evaluate(context: JobContext, config: EvaluateConfig) -> dict[str, Any]:
    """Measure; returns the run's result.

    Raises:
        NotFoundError: no such model or dataset.
        TokenizerMismatchError: the dataset was made with another tokenizer than the model.
        DeviceError: the device that was asked for is absent.
    """
    version = context.facts.resolve("model", parse_ref(config.model))
    manifest = context.store.load(version.manifest_id)
    dataset = _dataset(context, config, manifest)
    device, _ = choose_device(config.device)
    precision, _ = choose_precision("auto", device)
    model = load_ready_model(context.store, manifest, torch.device(device))
    seq_len = config.seq_len or _trained_seq_len(context, manifest)
    bits = bits_per_byte(
        model,
        context.store,
        dataset,
        seq_len=seq_len,
        stride=min(config.stride or max(1, seq_len // 2), seq_len),
        dtype=DTYPES[precision],
        on_progress=_progress(context),
    )
    xz_bits = xz_bits_per_byte(context.store, dataset)
    verdict = judge(bits, xz_bits)
    return {
        "model": version.ref,
        "model_id": manifest.id,
        "dataset_id": dataset.id,
        "bits_per_byte": bits,
        "xz_bits_per_byte": xz_bits,
        "bytes": int(dataset.counts["validation_bytes"]),
        "seq_len": seq_len,
        "passes": verdict.passes,
        "verdict": verdict.reason,
    }


def _dataset(context: JobContext, config: EvaluateConfig, model: Manifest) -> Manifest:
    if config.dataset is None:
        if "dataset" not in model.parents:
            raise NotFoundError(
                f"{config.model} does not say which dataset it was trained on",
                hint=f"name one: mulm eval {config.model} --dataset NAME",
            )
        return context.store.load(model.parents["dataset"])
    version = context.facts.resolve("dataset", parse_ref(config.dataset))
    dataset = context.store.load(version.manifest_id)
    if dataset.tokenizer_fingerprint != model.tokenizer_fingerprint:
        raise TokenizerMismatchError(
            f"{version.ref} was made with tokenizer {dataset.tokenizer_fingerprint},"
            f" {config.model} with {model.tokenizer_fingerprint}",
            hint='build it with the model\'s tokenizer: --set \'tokenizer={"ref": "NAME"}\'',
        )
    return dataset


def _progress(
    context: JobContext, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """Tells the run now and then how many tokens are read: each event is a durable write."""
    started_s = told_s = clock()

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        now_s = clock()
        if done < total and now_s - told_s < _PROGRESS_INTERVAL_S:
            return
        told_s = now_s
        rate_per_s = done / max(now_s - started_s, 1e-9)
        context.emit(
            "progress", stage="evaluate", done=done, total=total, unit="tokens",
            rate_per_s=round(rate_per_s, 1), eta_s=round((total - done) / max(rate_per_s, 1e-9), 1),
        )  # fmt: skip

    return tell


def _trained_seq_len(context: JobContext, manifest: Manifest) -> int:
    """What the model has seen in one piece: beyond it, positions are new to it."""
    longest = model_config(context.store, manifest).max_seq_len
    return min(longest, int(manifest.config.get("seq_len", longest)))


if __name__ == "__main__":
    sys.exit(main())
