"""One contender of `benchmarks.train`, in a process of its own.

    python -m benchmarks.train_contenders NAME SHAPE --threads 2

Tells how long its first step took, then takes one for each line that it reads and answers with its
seconds; where the input ends it tells the peak of its resident memory. All have AdamW, clipping at
1, bf16 products and the same number of random tokens a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.train_shapes import SHAPES, Measured, random_dataset, random_ids, train_values
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.host_allocator import keep_freed_memory
from mulm.train.loop import train

NEVER = 1_000_000


class DoneError(Exception):
    """No further step is asked for."""


class Turns:
    """One step at a time: called once a step, it answers for the step before and waits."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()

    def next(self) -> bool:
        """Tell how long the step took, the first one from the beginning on; False when it goes on.

        Raises:
            DoneError: no further step is wanted.
        """
        print(json.dumps({"seconds": time.perf_counter() - self._started_s}), flush=True)
        if not sys.stdin.readline():
            raise DoneError
        self._started_s = time.perf_counter()
        return False


def main() -> None:
    """Take steps until there is no further word."""
    turns = Turns()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanogpt", type=Path, help="A checkout of nanoGPT.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.nanogpt:
        sys.path.insert(0, str(options.nanogpt))
    try:
        CONTENDERS[options.name](SHAPES[options.shape], turns)
    except DoneError:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"peak_bytes": peak}), flush=True)


def by_mulm(measured: Measured, turns: Turns, *, compiled: bool, optimizer: str = "adamw") -> None:
    """The product's own loop, which asks once a step whether to stop."""
    values = train_values(measured) | {
        "name": "a", "dataset": "a", "steps": NEVER, "precision": "bf16", "log_every": NEVER,
        "compile": compiled, "optimizer": {"kind": optimizer},
    }  # fmt: skip
    keep_freed_memory()  # as where the product begins to train
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        context = LocalContext(
            store, random_dataset(store, measured), Path(folder), torch.device("cpu"),
            lambda _kind, _data: None, turns.next,
        )  # fmt: skip
        train(TrainConfig.model_validate(values), context)


def by_hf_loop(measured: Measured, turns: Turns, *, compiled: bool) -> None:
    """The Llama of transformers in a plain loop under autocast."""
    model = hf_llama(measured)
    run: Any = torch.compile(model) if compiled else model
    plain_loop(measured, turns, model, lambda x, y: run(input_ids=x, labels=x, shift_labels=y).loss)


def by_hf_trainer(measured: Measured, turns: Turns) -> None:
    """The Trainer of transformers with its own choices, in bf16."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Step(TrainerCallback):
        def on_step_end(self, *_args: Any, **_values: Any) -> None:
            turns.next()

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return NEVER

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row_T = random_ids(measured, index // measured.rows)[index % measured.rows, :-1]
            return {"input_ids": row_T, "labels": row_T}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=measured.rows, max_steps=NEVER,
            bf16=True, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
            logging_strategy="no", max_grad_norm=1.0,
        )  # fmt: skip
        model = hf_llama(measured)
        Trainer(model, arguments, train_dataset=Rows(), callbacks=[Step()]).train()


def by_litgpt(measured: Measured, turns: Turns, *, compiled: bool) -> None:
    """The model of litgpt in a plain loop under autocast."""
    from litgpt import GPT, Config

    shape = measured.shape
    model = GPT(
        Config(
            block_size=measured.seq_len, n_layer=shape.n_layers, n_embd=shape.d_model,
            padded_vocab_size=shape.vocab_size, vocab_size=shape.vocab_size, n_head=shape.n_heads,
            n_query_groups=shape.n_kv_heads, head_size=shape.d_head, bias=False,
            intermediate_size=shape.d_ff, mlp_class_name="LLaMAMLP", norm_class_name="RMSNorm",
            parallel_residual=False, rotary_percentage=1.0, norm_qk=shape.qk_norm,
        )
    )  # fmt: skip
    model.lm_head.weight = model.transformer.wte.weight
    run: Any = torch.compile(model) if compiled else model
    plain_loop(measured, turns, model, lambda x, y: cross_entropy(run(x), y))


def by_nanogpt(measured: Measured, turns: Turns, *, compiled: bool) -> None:
    """The model of nanoGPT (all heads, a GELU layer of four widths) in a plain loop."""
    from model import GPT, GPTConfig  # of the checkout that `--nanogpt` names

    shape = measured.shape
    model = GPT(
        GPTConfig(
            block_size=measured.seq_len, vocab_size=shape.vocab_size, n_layer=shape.n_layers,
            n_head=shape.n_heads, n_embd=shape.d_model, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    run: Any = torch.compile(model) if compiled else model
    plain_loop(measured, turns, model, lambda x, y: run(x, y)[1])


def hf_llama(measured: Measured) -> Any:
    """The same widths and counts as a Llama; it has no norm of queries and keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = measured.shape
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, head_dim=shape.d_head,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, intermediate_size=shape.d_ff, use_cache=False,
        max_position_embeddings=measured.seq_len, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def cross_entropy(logits_BTV: torch.Tensor, y_BT: torch.Tensor) -> torch.Tensor:
    """The mean in fp32, as litgpt and transformers take it."""
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), y_BT.flatten())


def plain_loop(
    measured: Measured,
    turns: Turns,
    model: torch.nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Autocast, AdamW (fused), clipping: what people write themselves."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    step = 0
    while True:
        ids_BT = random_ids(measured, step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous())
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value.item()
        step += 1
        turns.next()


CONTENDERS: dict[str, Callable[[Measured, Turns], None]] = {
    "mulm": partial(by_mulm, compiled=True),
    "mulm, Muon": partial(by_mulm, compiled=True, optimizer="muon"),
    "mulm, not compiled": partial(by_mulm, compiled=False),
    "HF Trainer": by_hf_trainer,
    "transformers": partial(by_hf_loop, compiled=False),
    "transformers, compiled": partial(by_hf_loop, compiled=True),
    "litgpt": partial(by_litgpt, compiled=False),
    "litgpt, compiled": partial(by_litgpt, compiled=True),
    "nanoGPT": partial(by_nanogpt, compiled=False),
    "nanoGPT, compiled": partial(by_nanogpt, compiled=True),
}

if __name__ == "__main__":
    main()
