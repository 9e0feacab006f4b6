"""How fast a GPU trains each size, how near its peak that is, and how right the memory plan is.

    python -m benchmarks.gpu_train                       # micro, base, wide
    python -m benchmarks.gpu_train --sizes base --seconds 20 --json base.json
    python -m benchmarks.gpu_train --device cpu --sizes demo --seq-len 64 --batch-tokens 128

Needs torch and mulm alone, no Ray. Each row trains on random tokens with the product's model, loss
and optimizer. Smaller cards are emulated by a bound on the memory of this one: each gets what the
plan says fits it, so their speed is that of this card with a small card's choices. A row that
fails is printed as its error. docs/gpu.md has the tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu_table import GIB, HEAD, Row, line_of
from mulm.model.attention import choose_kernel
from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.train.flops import flops_per_token, measured_peak_flops
from mulm.train.gradients import divide
from mulm.train.loss import sum_cross_entropy
from mulm.train.memory import USABLE, StepChoices, largest_rows, step_memory
from mulm.train.micro_batch import FILLING_TOKENS
from mulm.train.optim import Optimizer, learned_parameters
from mulm.train.peaks import makers_peak
from mulm.train.plan import all_choices
from mulm.train.settled import SettledOptimizer

OF_TORCH = 0.95
"""Of an emulated card; the rest is what the driver's context would take, outside of torch."""
MOST_STEPS, LEAST_STEPS = 1000, 3


@dataclass(frozen=True, slots=True)
class Options:
    """What all rows share."""

    device: str
    seq_len: int
    vocab_size: int
    batch_tokens: int
    seconds: float
    dtype: torch.dtype
    measured_peak: float
    known_peak: float | None
    is_compiled: bool


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, a line as soon as it is measured."""
    asked = _parse(argv)
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no usable GPU is here: nothing is measured (--device cpu tries the way)")
    options = _options(asked)
    for line in _about(options):
        print(line)
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}", flush=True)
    rows = []
    for size in asked.sizes:
        for card_gb, choices in ways(preset(size, options.vocab_size), options, asked.cap_gb):
            rows.append(attempt(size, card_gb, choices, options))
            print(line_of(rows[-1]), flush=True)
    if asked.json:
        facts = {"about": list(_about(options)), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(facts, indent=1))


def ways(
    shape: MicroLMConfig, options: Options, caps_gb: Sequence[float]
) -> Iterator[tuple[float | None, StepChoices | None]]:
    """Both optimizers on the whole card, then what the plan says of each smaller one."""
    total = total_bytes(options.device)
    for kind in ("muon", "adamw"):
        yield None, fitting(shape, options, USABLE * total, kind)
    for cap_gb in caps_gb:
        if cap_gb * GIB < total:
            yield cap_gb, fitting(shape, options, USABLE * cap_gb * GIB, "muon")


def fitting(
    shape: MicroLMConfig, options: Options, memory_bytes: float, kind: str
) -> StepChoices | None:
    """The first of the plan's ways that half fills the device, else the one with the most rows.

    The ways stand in the order of what they cost: states in fewer bytes, then blocks computed
    again. None where not even one row fits.
    """
    filling = max(1, min(FILLING_TOKENS[options.device], options.batch_tokens) // options.seq_len)
    best: StepChoices | None = None
    for plain in all_choices(options.seq_len):
        if plain.optimizer.kind != kind:
            continue
        size = options.dtype.itemsize
        choices = replace(plain, device=options.device, compute_bytes=size)
        rows = min(filling, largest_rows(shape, choices, memory_bytes))
        if rows > (best.rows if best else 0):
            best = replace(choices, rows=rows)
        if 2 * rows >= filling:
            break
    return best


def attempt(size: str, card_gb: float | None, choices: StepChoices | None, options: Options) -> Row:
    """Measure one row under the card's bound; whatever goes wrong is its result."""
    if choices is None:
        return Row(size, card_gb, error="the plan says that nothing fits")
    try:
        _bound_memory(card_gb, options.device)
        return measure(size, card_gb, choices, options)
    except Exception as error:  # noqa: BLE001 the next row shall be measured
        told = " ".join(str(error).replace("|", "/").split())[:160]
        return replace(_begun(size, card_gb, choices), error=f"{type(error).__name__}: {told}")
    finally:
        _bound_memory(None, options.device)


def measure(size: str, card_gb: float | None, choices: StepChoices, options: Options) -> Row:
    """Steps for some seconds, after a first one that is timed by itself."""
    shape = preset(size, options.vocab_size)
    n_micro_batches = max(1, options.batch_tokens // choices.n_tokens)
    choices = replace(choices, n_micro_batches=n_micro_batches)
    step = make_step(shape, choices, options)
    first_step_s = _timed(step, options.device)
    times: list[float] = []
    while len(times) < LEAST_STEPS or (sum(times) < options.seconds and len(times) < MOST_STEPS):
        times.append(_timed(step, options.device))
    step_s = sum(times) / len(times)
    tokens_per_s = n_micro_batches * choices.n_tokens / step_s
    flops_per_s = tokens_per_s * flops_per_token(shape, options.seq_len)
    kernel, _ = choose_kernel("auto", options.device, options.seq_len, shape.d_head)
    return replace(
        _begun(size, card_gb, choices),
        kernel=kernel,
        is_compiled=options.is_compiled,
        first_step_s=first_step_s,
        step_s=step_s,
        tokens_per_s=tokens_per_s,
        mfu_measured=flops_per_s / options.measured_peak,
        mfu_known=flops_per_s / options.known_peak if options.known_peak else None,
        peak_bytes=torch.cuda.max_memory_allocated() if options.device == "cuda" else None,
        planned_bytes=step_memory(shape, replace(choices, kernel=kernel)).peak_bytes,
    )


def make_step(shape: MicroLMConfig, choices: StepChoices, options: Options) -> Callable[[], None]:
    """One optimizer step as the training loop takes it."""
    generator = torch.Generator().manual_seed(0)
    model = MicroLM(shape).init_weights(generator).to(options.device)
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.004, "weight_decay": 0.0}
    settled = SettledOptimizer.model_validate(choices.optimizer.model_dump() | rates)
    optimizer = Optimizer(model, settled, options.dtype)
    is_compiled = options.is_compiled
    compute = Compute(options.dtype, "auto", choices.is_checkpointed, is_compiled)
    size = (choices.n_micro_batches, choices.rows, choices.seq_len + 1)
    ids_XBT = torch.randint(shape.vocab_size, size, generator=generator).to(options.device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        for ids_BT in ids_XBT:
            hidden_ND = model(ids_BT[:, :-1], compute).flatten(0, 1)
            weight_VD, targets_N = model.output_weight_VD, ids_BT[:, 1:].flatten()
            loss = sum_cross_entropy(
                hidden_ND, weight_VD, targets_N, options.dtype, is_compiled=is_compiled
            )
            del hidden_ND
            torch.autograd.backward(loss)
            if not math.isfinite(float(loss.detach())):
                raise ValueError("the loss is not finite")
        norms_P = divide(list(learned_parameters(model).values()), ids_XBT[:, :, 1:].numel())
        optimizer.step(0.1, norms_P)

    return step


def total_bytes(device: str) -> float:
    """Of the card; a CPU has no bound here."""
    return float(torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 1 << 40)


def _begun(size: str, card_gb: float | None, choices: StepChoices) -> Row:
    optimizer = choices.optimizer
    return Row(
        size, card_gb, optimizer.kind, optimizer.state_dtype, choices.is_checkpointed, choices.rows
    )


def _bound_memory(card_gb: float | None, device: str) -> None:
    """Let torch allocate no more than a card of that size has for tensors; free what is left."""
    if device != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    share = 1.0 if card_gb is None else min(1.0, OF_TORCH * card_gb * GIB / total_bytes(device))
    torch.cuda.set_per_process_memory_fraction(share)
    torch.cuda.reset_peak_memory_stats()


def _timed(act: Callable[[], None], device: str) -> float:
    started_s = time.perf_counter()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _about(options: Options) -> Iterator[str]:
    if options.device == "cuda":
        yield f"{torch.cuda.get_device_name(0)}, {total_bytes('cuda') / GIB:.1f} GiB"
    else:
        yield "a CPU: this tries the script; nothing below is about a GPU"
    known = f"{options.known_peak / 1e12:.0f}" if options.known_peak else "unknown"
    yield (
        f"torch {torch.__version__}, {options.dtype}, rows of {options.seq_len} tokens,"
        f" {options.batch_tokens} tokens a step, vocabulary {options.vocab_size};"
        f" peak TFLOP/s: {options.measured_peak / 1e12:.2f} measured, {known} by the maker"
    )
    yield ""


def _options(asked: argparse.Namespace) -> Options:
    device, dtype = asked.device, torch.bfloat16 if asked.device == "cuda" else torch.float32
    peak = makers_peak(torch.cuda.get_device_name(0)) if device == "cuda" else None
    return Options(
        device=device,
        seq_len=asked.seq_len,
        vocab_size=asked.vocab_size,
        batch_tokens=max(asked.batch_tokens, asked.seq_len),
        seconds=asked.seconds,
        dtype=dtype,
        measured_peak=measured_peak_flops(torch.device(device), dtype),
        known_peak=peak,
        is_compiled=not asked.no_compile,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["micro", "base", "wide"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--batch-tokens", type=int, default=65536, help="Of one optimizer step.")
    parser.add_argument("--seconds", type=float, default=8.0, help="Of each row.")
    parser.add_argument("--cap-gb", nargs="*", type=float, default=[24, 12, 8])
    parser.add_argument("--no-compile", action="store_true", help="Run the plain functions.")
    parser.add_argument("--json", type=Path, help="Write all numbers to a file, too.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
