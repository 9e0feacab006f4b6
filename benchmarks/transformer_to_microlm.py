"""From the paper's Transformer to the µLM, one change at a time: what each does to loss and speed.

    python -m benchmarks.transformer_to_microlm              # the table of the tutorial
    python -m benchmarks.transformer_to_microlm --steps 20   # a quick look

Every variant reads the same bytes of the bundled books in the same order, through the training
loop, with the same optimizer. All are judged by the second half of each held-out window, which the
encoder-decoder predicts from the first. Speed is CPU time of one thread, of steps that take turns,
so that what else the machine does hits all alike. Shape letters: B rows, T tokens,
S source tokens, D d_model, V vocabulary.
"""

from __future__ import annotations

import argparse
import gzip
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.decoder_variants import DecoderVariant, Size, Switches
from mulm import __version__
from mulm.data.loader import IGNORED_TARGET
from mulm.manifest import Manifest
from mulm.model.batch import PAGE_TOKENS
from mulm.model.batch import Batch as Tokens
from mulm.model.microlm import MicroLM
from mulm.model.transformer import Transformer
from mulm.model.weights import tensor_bytes
from mulm.store import Store
from mulm.train.context import LocalContext, TrainContext
from mulm.train.loop import train
from mulm.train.loss import sum_cross_entropy
from mulm.train.objectives.base import Objective, SummedLoss
from mulm.train.objectives.pretraining import Batch, Pretraining
from mulm.train.settled import SettledConfig
from mulm.train.sync.base import Sync

BOOKS = Path(__file__).parents[1] / "corpora" / "books"
HELD_OUT_BOOK = "herbert-george-wells__the-time-machine.txt.gz"
SEQ_LEN, N_ROWS, N_TIMED, N_WRITTEN = 64, 16, 25, 512
N_HELD_OUT_BYTES = 64 * 512
"""The beginning of the held-out book."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the way; `switches` is None for the encoder-decoder itself."""

    name: str
    switches: Switches | None


def changes() -> list[Change]:
    """The way: each variant has all changes before it. The last one is a way not taken."""
    switches, way = (
        Switches(),
        [Change("encoder-decoder", None), Change("decoder only", Switches())],
    )
    for name, switch in (
        ("pre-norm", "pre_norm"), ("RMSNorm", "rms_norm"), ("rotary positions", "rotary"),
        ("grouped queries", "grouped_queries"), ("QK-norm", "qk_norm"), ("SwiGLU", "swiglu"),
        ("plain tied embeddings", "plain_embeddings"), ("branches begin at zero", "zero_branches"),
    ):  # fmt: skip
        switches = replace(switches, **{switch: True})
        way.append(Change(name, switches))
    return [*way, Change("(untied instead)", replace(switches, untied=True))]


@dataclass(slots=True)
class Row:
    """What was measured of a change."""

    change: Change
    n_parameters: int = 0
    bits_per_byte: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)


class NextByte(Pretraining):
    """`Objective` of any decoder-only variant, judged by the second half of the windows."""

    def __init__(self, config: SettledConfig, context: TrainContext, change: Change) -> None:
        super().__init__(config, context)
        self.change = change

    def build(self, generator: torch.Generator) -> Any:
        """Fresh weights of the variant."""
        return build(self.change, generator)

    def loss(self, model: Any, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """Cross-entropy of all next bytes; for the encoder-decoder, of those it predicts."""
        return next_byte_loss(model, *batch, dtype)

    @torch.no_grad()
    def validate(self, model: Any, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """Bits per byte of the second halves."""
        nats, count = 0.0, 0.0
        for x_BT, y_BT in self._held_out.iter_validation(64):
            late_BT = y_BT.clone()
            late_BT[:, : SEQ_LEN // 2] = IGNORED_TARGET
            loss = next_byte_loss(model, x_BT, late_BT, dtype)
            nats, count = nats + float(loss.total), count + loss.count
        (total,) = sync.sum_values([nats])
        return {self.judged_by: total / count / math.log(2)}

    def store(self, model: Any, counts: Mapping[str, int]) -> str:  # noqa: ARG002
        """A measured model is not kept."""
        return ""


def build(change: Change, generator: torch.Generator) -> nn.Module:
    """The variant's model."""
    if change.switches is None:
        return Transformer(Size().transformer()).init_weights(generator)
    return DecoderVariant(Size(), change.switches).init_weights(generator)


def next_byte_loss(model: Any, x_BT: Tensor, y_BT: Tensor, dtype: torch.dtype) -> SummedLoss:
    """Cross-entropy in nats of the bytes that the model predicts.

    The encoder-decoder reads the first half of each row at once, and predicts the second.
    """
    if isinstance(model, Transformer):
        half = SEQ_LEN // 2
        logits_NV, y_BT = model(x_BT[:, :half], x_BT[:, half:]).flatten(0, 1), y_BT[:, half:]
        nats = functional.cross_entropy(
            logits_NV, y_BT.flatten(), ignore_index=IGNORED_TARGET, reduction="sum"
        )
    else:
        hidden_ND = model(x_BT).flatten(0, 1)
        nats = sum_cross_entropy(hidden_ND, model.output_weight_VD, y_BT.flatten(), dtype)
    return SummedLoss(nats, int((y_BT != IGNORED_TARGET).sum()))


def make_context(folder: Path) -> LocalContext:
    """The bundled books as bytes: one is held out, the others are read."""
    store = Store(folder / "store")
    texts = {path.name: gzip.decompress(path.read_bytes()) for path in sorted(BOOKS.glob("*.gz"))}
    held_out = texts.pop(HELD_OUT_BOOK)[:N_HELD_OUT_BYTES]
    training = b"".join(texts.values())
    dataset = Manifest(
        kind="dataset",
        code_version=__version__,
        config={"name": "bytes"},
        counts={"vocab_size": 256, "validation_bytes": len(held_out)},
        blobs=(
            store.put("train-00000.bin", _as_tokens(training), len(training)),
            store.put("validation-00000.bin", _as_tokens(held_out), len(held_out)),
        ),
    )
    return LocalContext(store, dataset, folder, torch.device("cpu"), lambda *_: None, lambda: False)


def _as_tokens(text: bytes) -> bytes:
    return tensor_bytes(torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.uint16))


def make_config(steps: int, seed: int) -> SettledConfig:
    """The same for every variant; weights, and the order of windows, follow the seed."""
    return SettledConfig.model_validate(
        {
            "name": "variant", "dataset": "bytes", "steps": steps, "seq_len": SEQ_LEN,
            "batch_tokens": N_ROWS * SEQ_LEN, "seed": seed, "precision": "fp32",
            "optimizer": {
                "kind": "adamw", "matrix_lr": 0.006, "embedding_lr": 0.006, "weight_decay": 0.0,
            },
            "schedule": {"warmup": 0.1, "decay": 0.5},
            "log_every": steps, "validate_every": steps, "checkpoint_every": steps,
        }
    )  # fmt: skip


def measure_losses(rows: Sequence[Row], steps: int, n_seeds: int, n_processes: int) -> None:
    """Train every variant with every seed, each run in one thread of one of the processes."""
    runs = [(row.change, steps, seed) for seed in range(n_seeds) for row in rows]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, spawn, torch.set_num_threads, (1,)) as pool:
        for row, (n_parameters, found) in zip(cycle(rows), pool.map(measure_loss, runs)):
            row.n_parameters = n_parameters
            row.bits_per_byte.append(found)
            print(f"# {row.change.name}: {found:.4f}", file=sys.stderr, flush=True)


def measure_loss(run: tuple[Change, int, int]) -> tuple[int, float]:
    """Train once; the number of parameters, and bits per byte of the held-out text."""
    change, steps, seed = run
    with tempfile.TemporaryDirectory() as folder:
        config, context = make_config(steps, seed), make_context(Path(folder))
        objective: Objective[Any, Any] = NextByte(config, context, change)
        result = train(config, context, objective)
    return result.parameters, result.validation


def measure_speed(rows: Sequence[Row], n_timed: int) -> None:
    """Time forward and backward of one batch: all variants take turns, `n_timed` times."""
    generator = torch.Generator().manual_seed(0)
    models: list[Any] = [build(row.change, generator) for row in rows]
    ids_BT = torch.randint(1, 256, (N_ROWS, SEQ_LEN + 1), generator=generator)
    for turn in range(n_timed + 2):
        for row, model in zip(rows, models, strict=True):
            started_s = time.thread_time()
            loss = next_byte_loss(model, ids_BT[:, :-1], ids_BT[:, 1:], torch.float32)
            loss.total.backward()  # type: ignore[no-untyped-call]
            if turn >= 2:  # the first turns warm up
                row.step_s.append(time.thread_time() - started_s)


def measure_cache(n_timed: int) -> tuple[float, float]:
    """CPU seconds of writing `N_WRITTEN` bytes: reading all again for each, and with a cache."""
    size = Size(max_seq_len=N_WRITTEN)
    config = size.microlm(changes()[-2].switches or Switches())
    model = MicroLM(config).init_weights(torch.Generator().manual_seed(0)).eval()
    ids_T = torch.randint(1, 256, (N_WRITTEN,), generator=torch.Generator().manual_seed(1))

    def again() -> None:
        for length in range(1, N_WRITTEN + 1):
            model.logits(model(ids_T[None, :length])[:, -1])

    def cached() -> None:
        pages = range(-(-N_WRITTEN // PAGE_TOKENS))
        cache = model.make_cache(len(pages))
        for position, token_id in enumerate(ids_T.tolist()):
            model.logits(model.extend(Tokens.of(([token_id], position, pages)), cache))

    times: dict[Callable[[], None], list[float]] = {again: [], cached: []}
    with torch.inference_mode():
        for _ in range(n_timed):
            for way, seconds in times.items():
                started_s = time.thread_time()
                way()
                seconds.append(time.thread_time() - started_s)
    return statistics.median(times[again]), statistics.median(times[cached])


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; the speed is that of training steps, the paper's decoder being 1."""
    lines = [
        "| change | parameters | bits per byte | change of it | speed |",
        "|---|---|---|---|---|",
    ]
    base_s, before = statistics.median(rows[1].step_s), math.nan
    for row in rows:
        mean = statistics.mean(row.bits_per_byte)
        spread = (max(row.bits_per_byte) - min(row.bits_per_byte)) / 2
        change = "" if math.isnan(before) else f"{mean - before:+.3f}"
        speed = base_s / statistics.median(row.step_s)
        lines.append(
            f"| {row.change.name} | {row.n_parameters:,} | {mean:.3f} ± {spread:.3f} | {change}"
            f" | {speed:.2f} |"
        )
        before = mean
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="From the Transformer to the µLM")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="that train, one thread each")
    parser.add_argument("--timed", type=int, default=N_TIMED, help="timed steps of each variant")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [Row(change) for change in changes()]
    measure_speed(rows, options.timed)
    measure_losses(rows, options.steps, options.seeds, options.processes)
    again_s, cached_s = measure_cache(max(1, options.timed // 8))
    print(table(rows))
    print(f"KV cache: {N_WRITTEN} bytes are written {again_s / cached_s:.1f} times faster")


if __name__ == "__main__":
    main()
