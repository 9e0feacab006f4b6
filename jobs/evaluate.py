"""Evaluate a model: `python -m jobs.evaluate --config FILE`, a Ray job.

Measures bits per byte on held-out text beside those of `xz -9e`, and the suites that the config
names, each with its standard error and 95 % interval.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from jobs.entry import JobContext, run_job
from mulm.data.tokenizer import Tokenizer
from mulm.errors import NotFoundError, TokenizerMismatchError
from mulm.eval.compression import bits_per_byte, xz_bits_per_byte
from mulm.eval.config import EvaluateConfig
from mulm.eval.gate import judge
from mulm.eval.held_out import ROLE, require_dataset
from mulm.eval.scoring import Student, score_suite
from mulm.eval.suites.registry import ALL, BITS_PER_BYTE, SUITES
from mulm.manifest import Manifest
from mulm.model.microlm import MicroLM
from mulm.model.stored import TOKENIZER, load_ready_model, model_config
from mulm.refs import parse_ref
from mulm.runs.identity import evaluate_identity, suite_data
from mulm.train.device import DTYPES, choose_device, choose_precision

_PROGRESS_INTERVAL_S = 0.5

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("evaluate", arguments, EvaluateConfig, evaluate, evaluate_identity)


def evaluate(context: JobContext, config: EvaluateConfig) -> Result:
    """Measure; returns the run's result.

    Raises:
        NotFoundError: no such model or dataset.
        TokenizerMismatchError: the dataset was made with another tokenizer than the model.
        SchemaError, DataError: a suite's file is not what it should be.
        DeviceError: the device that was asked for is absent.
    """
    version = context.facts.resolve("model", parse_ref(config.model))
    manifest = context.store.load(version.manifest_id)
    skipped: dict[str, str] = {}
    dataset = _dataset_or_reason(context, config, manifest, skipped)
    device, _ = choose_device(config.device)
    model = load_ready_model(context.store, manifest, torch.device(device))
    result: Result = {"model": version.ref, "model_id": manifest.id}
    if dataset is not None:
        result |= _compression(context, config, manifest, model, dataset)
    if config.suite_names:
        result |= _suites(context, config, manifest, model, skipped)
    return result


def _compression(
    context: JobContext,
    config: EvaluateConfig,
    manifest: Manifest,
    model: MicroLM,
    dataset: Manifest,
) -> Result:
    """Bits per byte on held-out text, and the gate's verdict."""
    precision, _ = choose_precision(config.precision, model.device.type)
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
        "dataset_id": dataset.id,
        "bits_per_byte": bits,
        "xz_bits_per_byte": xz_bits,
        "bytes": int(dataset.counts["validation_bytes"]),
        "seq_len": seq_len,
        "passes": verdict.passes,
        "verdict": verdict.reason,
    }


def _suites(
    context: JobContext,
    config: EvaluateConfig,
    manifest: Manifest,
    model: MicroLM,
    skipped: dict[str, str],
) -> Result:
    """The scores of each suite, and why one was passed over."""
    # Items are right or wrong, and rounding turns some: fp32 unless asked otherwise.
    precision = "fp32" if config.precision == "auto" else config.precision
    tokenizer = Tokenizer.from_bytes(context.store.read(manifest.blob(TOKENIZER)))
    student = Student(model, tokenizer, DTYPES[precision])
    data = suite_data(config, context.store)
    scores: dict[str, Result] = {}
    for name, files in data.files.items():
        started_s = time.monotonic()
        tell = _progress(context, stage=name, unit="questions")
        scores[name] = score_suite(SUITES[name], files, student, config, tell)
        context.emit(
            "stage", name=name, seconds=round(time.monotonic() - started_s, 1),
            text=described(scores[name]),
        )  # fmt: skip
    for name, reason in (skipped | dict(data.skipped)).items():
        context.emit("log", text=f"{name} is passed over: {reason}")
    return {
        "suites": scores,
        "skipped": skipped | dict(data.skipped),
        "precision": precision,
        "window": config.seq_len or model.config.max_seq_len,
        "add_bos": config.add_bos,
    }


def described(scores: Result) -> str:
    """The scores of one suite in a line."""
    parts = [_metric_described(name, metric) for name, metric in scores["metrics"].items()]
    cut = f", {scores['cut']} questions cut to the window" if scores["cut"] else ""
    of = {"sample": "items of the bundled sample"}.get(scores["origin"], "items")
    return f"{', '.join(parts)}; {scores['n']:,} {of}{cut}"


def _metric_described(name: str, metric: Result) -> str:
    low, high = metric["interval"]
    return f"{name} {metric['score']:.4g} ({low:.4g} to {high:.4g})"


def _dataset_or_reason(
    context: JobContext, config: EvaluateConfig, model: Manifest, skipped: dict[str, str]
) -> Manifest | None:
    """The dataset if bits per byte are measured; only "all" goes on without one."""
    if not config.has_bits_per_byte:
        return None
    try:
        return _dataset(context, config, model)
    except NotFoundError as error:
        if ALL not in config.suites or config.dataset is not None:
            raise
        skipped[BITS_PER_BYTE] = error.message
        return None


def _dataset(context: JobContext, config: EvaluateConfig, model: Manifest) -> Manifest:
    require_dataset(config, model)
    if config.dataset is None:
        return context.store.load(model.parents[ROLE])
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
    context: JobContext,
    clock: Callable[[], float] = time.monotonic,
    *,
    stage: str = "evaluate",
    unit: str = "tokens",
) -> Callable[[int, int], None]:
    """Tells the run now and then how much is done: each event is a durable write."""
    started_s = told_s = clock()

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        now_s = clock()
        if done < total and now_s - told_s < _PROGRESS_INTERVAL_S:
            return
        told_s = now_s
        rate_per_s = done / max(now_s - started_s, 1e-9)
        context.emit(
            "progress", stage=stage, done=done, total=total, unit=unit,
            rate_per_s=round(rate_per_s, 1), eta_s=round((total - done) / max(rate_per_s, 1e-9), 1),
        )  # fmt: skip

    return tell


def _trained_seq_len(context: JobContext, manifest: Manifest) -> int:
    """What the model has seen in one piece: beyond it, positions are new to it."""
    longest = model_config(context.store, manifest).max_seq_len
    return min(longest, int(manifest.config.get("seq_len", longest)))


if __name__ == "__main__":
    sys.exit(main())
