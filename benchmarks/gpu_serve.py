"""How fast a GPU generates, how near its limits that is, and what smaller weights and guesses give.

    python -m benchmarks.gpu_serve                       # base in bf16
    python -m benchmarks.gpu_serve --size micro --batches 1 64 --json micro.json
    python -m benchmarks.gpu_serve --device cpu --size demo --vocab-size 320 --prompt 16 --new 8

Needs torch and mulm alone, no Ray; transformers gets rows of its own where it is installed. Weights
are random, answers greedy. Our rows are measured by plain steps and with CUDA graphs (on a CPU a
tape tries the way). What the device can do is measured in the same run: bytes a second by copies of
a large tensor, operations by large products. A row that fails is printed as its error. docs/gpu.md
has the tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_serve_run import Options, bandwidth, bytes_of, greedy, random_ids, timed
from benchmarks.gpu_serve_table import HEAD, Row, WithGraphs, line_of
from mulm.engine.engine import Engine
from mulm.engine.graph import Recorder
from mulm.engine.graph_cuda import CudaRecorder
from mulm.engine.graph_tape import TapeRecorder
from mulm.engine.pages import pages_for
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Speculation
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.train.flops import measured_peak_flops

N_GUESSES = 4
_ROUNDS = 5

Make = Callable[[Options], tuple[Any, int]]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, a line as soon as it is measured."""
    asked = _parse(argv)
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no usable GPU is here: nothing is measured (--device cpu tries the way)")
    options = _options(asked)
    for line in _about(asked, options):
        print(line)
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}", flush=True)
    rows: list[Row] = []
    for measure in measures(options):
        rows.append(measure())
        print(line_of(rows[-1]), flush=True)
    if asked.json:
        facts = {"about": list(_about(asked, options)), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(facts, indent=1))


def measures(options: Options) -> Iterator[Callable[[], Row]]:
    """All rows, in the order of the table."""
    for name, make in (("mulm", plain), ("mulm int8", quantised("int8")),
                       ("mulm int4", quantised("int4"))):  # fmt: skip
        for batch in options.batches if name == "mulm" else options.batches[:1]:
            yield lambda n=name, m=make, b=batch: attempt(
                n, b, options, lambda: decode(m, b, options)
            )  # type: ignore[misc]
    for batch in options.batches:
        yield lambda b=batch: attempt(
            "mulm, same bits in any batch", b, options, lambda: decode(plain, b, options, True)
        )  # type: ignore[misc]
    yield lambda: attempt("mulm, prompt", 1, options, lambda: prefill(options))
    yield lambda: attempt("mulm, prompt, same bits", 1, options, lambda: prefill(options, True))
    yield lambda: attempt("mulm, no guesses on a text that repeats", 1, options,
                          lambda: repeat(options, None))  # fmt: skip
    guesses = Speculation(PromptLookup(), N_GUESSES)
    yield lambda: attempt("mulm, guesses on it", 1, options, lambda: repeat(options, guesses))
    if importlib.util.find_spec("transformers"):
        for batch in options.batches:
            yield lambda b=batch: attempt("transformers", b, options, lambda: foreign(b, options))  # type: ignore[misc]


def attempt(what: str, batch: int, options: Options, measure: Callable[[], Row]) -> Row:
    """One row; whatever goes wrong is its result."""
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with torch.inference_mode():
            row = measure()
    except Exception as error:  # noqa: BLE001 - the next row shall be measured
        told = " ".join(str(error).replace("|", "/").split())[:160]
        return Row(what, batch, error=f"{type(error).__name__}: {told}")
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else None
    return replace(row, what=what, batch=batch, peak_bytes=peak)


def decode(make: Make, batch: int, options: Options, is_invariant: bool = False) -> Row:
    """Streams that all decode, after their prompts were read; median of the steps."""
    model, n_bytes = make(options)

    def measure(engine: Engine) -> float:
        steps = []
        for _ in range(2):  # the first time kernels are chosen and memory is taken
            steps = _decode_steps(engine, batch, options)
        return sorted(steps)[len(steps) // 2]

    def row(step_s: float) -> Row:
        of_bandwidth = n_bytes / step_s / options.bytes_per_s
        return Row("", batch, batch / step_s, step_s, of_bandwidth)

    return both(model, batch, options, measure, row, batch_invariant=is_invariant)


def prefill(options: Options, is_invariant: bool = False) -> Row:
    """One long prompt in one piece, to its first token; the best of some."""

    def measure(engine: Engine) -> float:
        times = []
        for seed in range(_ROUNDS):
            request = greedy("a", random_ids(options, options.n_prefill, seed), 1)
            times.append(timed(lambda asked=request: engine.generate([asked]), options))  # type: ignore[misc]
        return min(times)

    def row(seconds: float) -> Row:
        n_flops = prompt_flops(options.shape, options.n_prefill)
        of_peak = n_flops / seconds / options.flops_per_s
        return Row("", 1, options.n_prefill / seconds, seconds, None, of_peak)

    return both(
        plain(options)[0], 1, options, measure, row,
        prefill_tokens=options.n_prefill, batch_invariant=is_invariant,
    )  # fmt: skip


def both(
    model: Any, batch: int, options: Options, measure: Callable[[Engine], float],
    row: Callable[[float], Row], **settings: Any,
) -> Row:  # fmt: skip
    """A row by plain steps, with what it is when steps are recorded; seconds are measured."""
    found = row(measure(engine_of(model, batch, options, **settings)))
    recorder = recorder_of(options)
    engine = engine_of(model, batch, options, recorder=recorder, **settings)
    assert engine.graphs is not None
    problem, n_bytes = engine.graphs.problem, engine.graphs.n_bytes
    again = None if problem else row(measure(engine))
    recorder.forget()
    if again is None:
        return replace(found, graphs=WithGraphs(problem=problem))
    return replace(
        found, graphs=WithGraphs(again.tokens_per_s, again.step_s, again.of_bandwidth, n_bytes)
    )


def recorder_of(options: Options) -> Recorder:
    """Of a GPU, or what tries the way on a CPU."""
    return CudaRecorder(torch.device("cuda")) if options.device == "cuda" else TapeRecorder()


def prompt_flops(shape: MicroLMConfig, n_tokens: int) -> int:
    """Operations of reading a prompt, by PaLM's count; logits are of its last token alone."""
    matrices = sum(rows * columns for rows, columns in shape.block_matrices)
    attention = 2 * shape.n_heads * shape.d_head * n_tokens
    of_a_token = 2 * shape.n_layers * (matrices + attention)
    return n_tokens * of_a_token + 2 * shape.vocab_size * shape.d_model


def repeat(options: Options, speculation: Speculation | None) -> Row:
    """A stream after a prompt that says the same again and again."""
    piece = random_ids(options, 8, 0)
    ids = (piece * (options.n_prompt // 8 + 1))[: options.n_prompt]

    def measure(engine: Engine) -> float:
        seconds = 0.0
        for name in ("warm", "timed"):
            begun = [greedy(name, ids, options.n_new)]
            seconds = timed(lambda asked=begun: engine.generate(asked), options)  # type: ignore[misc]
        return seconds

    def row(seconds: float) -> Row:
        return Row("", 1, options.n_new / seconds, seconds / options.n_new)

    return both(plain(options)[0], 1, options, measure, row, speculation=speculation)


def foreign(batch: int, options: Options) -> Row:
    """Transformers' `generate` on the same shape; prompts are taken off by a second, short run."""
    import transformers

    shape = options.shape
    config = transformers.Qwen3Config(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, head_dim=shape.d_head,
        max_position_embeddings=shape.max_seq_len, tie_word_embeddings=shape.tie_embeddings,
    )  # fmt: skip
    model: Any = transformers.Qwen3ForCausalLM(config)
    model = model.to(options.device, options.dtype).eval()
    ids = torch.tensor(
        [random_ids(options, options.n_prompt, row) for row in range(batch)], device=options.device
    )

    def run(n_new: int) -> None:
        model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=n_new, max_new_tokens=n_new,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip

    run(2)
    short_s, long_s = (
        min(timed(lambda n=n: run(n), options) for _ in range(_ROUNDS))  # type: ignore[misc]
        for n in (2, options.n_new)
    )
    step_s = (long_s - short_s) / (options.n_new - 2)
    n_bytes = bytes_of(model.parameters())
    return Row("", batch, batch / step_s, step_s, n_bytes / step_s / options.bytes_per_s)


def plain(options: Options) -> tuple[Any, int]:
    """The model as it is trained, and the bytes of its weights."""
    torch.manual_seed(0)
    model = MicroLM(options.shape).to(options.device, options.dtype).eval()
    return model, bytes_of(model.parameters())


def quantised(bits: Any) -> Make:
    """The model with smaller weights."""

    def make(options: Options) -> tuple[Any, int]:
        kept = Quantization(linear=bits, embedding="int8")
        model = QuantizedMicroLM.of(plain(options)[0].cpu().float(), kept).to(options.device)
        n_bytes = bytes_of(model.state_dict().values())
        model.pack()
        return model, n_bytes

    return make


def engine_of(model: Any, batch: int, options: Options, **settings: Any) -> Engine:
    """An engine with room for what is asked here."""
    window = max(options.n_prompt + options.n_new, options.n_prefill + 1) + 1
    return Engine(
        model, batch, window, max_waiting=batch, longest_step_s=None,
        n_pages=batch * pages_for(window + 1), **settings,
    )  # fmt: skip


def _decode_steps(engine: Engine, batch: int, options: Options) -> list[float]:
    for row in range(batch):
        engine.add(greedy(str(row), random_ids(options, options.n_prompt, row), options.n_new))
    begun: set[str] = set()
    while len(begun) < batch:
        begun |= {chunk.request_id for chunk in engine.step()}
    steps = []
    while engine.n_unfinished:
        steps.append(timed(engine.step, options))
    return steps[: max(1, len(steps) // 2)]  # the last ones have fewer streams


def _about(asked: argparse.Namespace, options: Options) -> Iterator[str]:
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU: nothing about a GPU"
    yield f"{asked.size} on {name}, torch {torch.__version__}, {options.dtype}"
    yield f"copies move {options.bytes_per_s / 1e9:,.0f} GB/s, read and written"
    yield f"products reach {options.flops_per_s / 1e12:,.2f} TFLOP/s"
    yield f"prompts of {options.n_prompt}, {options.n_new} new tokens, greedy, random weights"


def _options(asked: argparse.Namespace) -> Options:
    dtype = torch.bfloat16 if asked.device == "cuda" else torch.float32
    device = torch.device(asked.device)
    return Options(
        asked.device, preset(asked.size, asked.vocab_size), dtype, tuple(asked.batches),
        asked.prompt, asked.new, asked.prefill, bandwidth(asked.device),
        measured_peak_flops(device, dtype),
    )  # fmt: skip


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="base")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
