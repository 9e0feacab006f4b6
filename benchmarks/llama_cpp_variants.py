"""Does llama.cpp compute every shape that we export? Logits of tiny random models, side by side.

    python benchmarks/llama_cpp_variants.py --llama-python PATH --quant f32

PATH is the Python of an environment that has `llama-cpp-python`; ours need not. Prints a line per
shape: the largest difference of any logit over 100 positions, and how often the most likely next
token is the same. llama.cpp keeps keys and values in fp16, hence some 0.005 even with f32 weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LLAMA3 = {
    "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_seq_len": 32,
}  # fmt: skip
YARN = {"kind": "yarn", "factor": 4.0, "original_max_seq_len": 64}
SHAPE = {
    "d_model": 64, "d_head": 32, "n_heads": 4, "n_kv_heads": 2, "d_ff": 128, "max_seq_len": 256,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3, untied, linear rope": {
        "tie_embeddings": False,
        "rope_scaling": {"kind": "linear", "factor": 4.0},
    },
    "qwen3, 5 heads to 1": {"n_heads": 5, "n_kv_heads": 1},
    "qwen3, padded vocabulary": {"vocab_size": 352},
    "llama": {"qk_norm": False},
    "llama, untied": {"qk_norm": False, "tie_embeddings": False, "rope_theta": 5e5},
    "llama, linear rope": {"qk_norm": False, "rope_scaling": {"kind": "linear", "factor": 2.0}},
    "qwen3, yarn rope": {"rope_scaling": YARN},
    "llama, yarn rope": {"qk_norm": False, "rope_scaling": YARN},
    "llama, llama3 rope": {"qk_norm": False, "rope_scaling": LLAMA3},
}


def main() -> None:
    """Parent: export each shape, ask both sides, compare."""
    from mulm.store import Store
    from mulm.testing import tiny_tokenizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--quant", default="f32")
    arguments = parser.parse_args()
    tokenizer = tiny_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        for name, changes in VARIANTS.items():
            path = Path(folder) / f"{name}.gguf"
            ours, ids = export(store, tokenizer, SHAPE | changes, path, arguments.quant)
            theirs = ask_child(arguments.llama_python, {"path": str(path), "ids": ids})
            print(f"{arguments.quant:<5} {name:<28} {compare(ours, theirs)}", flush=True)


def export(
    store: Any, tokenizer: Any, shape: dict[str, Any], path: Path, quant: str
) -> tuple[Any, list[int]]:
    """Write the file; our logits (T, V) for some ids, and the ids."""
    import torch

    from mulm.model.gguf_blocks import BLOCK_TYPES
    from mulm.model.gguf_model import write_gguf
    from mulm.model.model_files import open_model_files
    from mulm.model.stored import load_model
    from mulm.testing import tiny_stored_model

    manifest = tiny_stored_model(store, tokenizer, **shape)
    with open_model_files(store, manifest) as files:
        write_gguf(path, files, BLOCK_TYPES[quant], name=path.stem)
    model = load_model(store, manifest)
    ids_BT = torch.randint(32, 320, (1, 100), generator=torch.Generator().manual_seed(1))
    return model.logits(model(ids_BT))[0], ids_BT[0].tolist()


def ask_child(python: str, order: dict[str, Any]) -> list[list[float]]:
    """What llama.cpp says, from an environment of its own."""
    done = subprocess.run(  # noqa: S603 - this very file
        [python, __file__, "--child"], input=json.dumps(order), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    answer: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(ours_TV: Any, theirs: list[list[float]]) -> str:
    """The largest difference, and the share of equal first choices."""
    import torch

    theirs_TV = torch.tensor(theirs)[:, : ours_TV.shape[1]]
    difference = float((theirs_TV - ours_TV).abs().max())
    equal = float((theirs_TV.argmax(-1) == ours_TV.argmax(-1)).float().mean())
    return f"largest difference {difference:.4f}, same first choice {equal:.0%}"


def child() -> None:
    """The other side: logits at every position, by llama.cpp alone."""
    import llama_cpp

    order = json.load(sys.stdin)
    llama = llama_cpp.Llama(order["path"], n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    llama.eval(order["ids"])
    print("\n" + json.dumps(llama.scores[: len(order["ids"])].tolist()))


if __name__ == "__main__":
    child() if sys.argv[1:] == ["--child"] else main()
