"""The loss alone, forward and backward, from hidden states: fused beside that of transformers.

    python -m benchmarks.train_loss --threads 2

With the shape of `benchmarks.train_shapes`' S and products in bf16, but for one way; transformers
keeps all logits and takes their softmax in fp32, as its models do. All ways take turns in one
process, which keeps freed memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.train_shapes import SHAPES
from mulm.train.host_allocator import keep_freed_memory
from mulm.train.loss import sum_cross_entropy

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    ways: dict[str, Loss] = {
        "mulm": partial(sum_cross_entropy, dtype=torch.bfloat16, is_compiled=True),
        "mulm, not compiled": partial(sum_cross_entropy, dtype=torch.bfloat16),
        "transformers, all in fp32": partial(by_transformers, dtype=torch.float32),
        "transformers": by_transformers,
    }
    shape, n_tokens = SHAPES["S"].shape, SHAPES["S"].batch_tokens
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(n_tokens, shape.d_model, generator=generator).bfloat16()
    weight_VD = 0.02 * torch.randn(shape.vocab_size, shape.d_model, generator=generator)
    targets_N = torch.randint(0, shape.vocab_size, (n_tokens,), generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, loss in ways.items():
            seconds[name].append(timed(loss, hidden_ND, weight_VD, targets_N))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print("| loss | ms | of the last |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1e3 * median:.0f} | {medians['transformers'] / median:.2f} |")


def timed(loss: Loss, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> float:
    """Seconds of both ways."""
    hidden_ND = hidden_ND.clone().requires_grad_()
    weight_VD = weight_VD.clone().requires_grad_()
    started_s = time.perf_counter()
    torch.autograd.backward(loss(hidden_ND, weight_VD, targets_N))
    return time.perf_counter() - started_s


def by_transformers(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """The last matrix, under autocast where it is bf16, then the loss of its causal models."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits_BTV = torch.nn.functional.linear(hidden_ND.to(dtype), weight_VD)[None]
    labels_BT = targets_N[None]
    loss: Tensor = ForCausalLMLoss(
        logits_BTV, labels_BT, logits_BTV.shape[-1], shift_labels=labels_BT
    )
    return loss


if __name__ == "__main__":
    main()
