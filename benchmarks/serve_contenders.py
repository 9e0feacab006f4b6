"""One engine of `benchmarks.serve`, in a process of its own, perhaps of an environment of its own.

    PYTHON benchmarks/serve_contenders.py NAME FOLDER --threads 2

Imports nothing of ours but in the contenders that are ours. Says {"ready": seconds} after its first
token, then answers an order a line: {"prompts": [[ids]], "n_new": 128} with the seconds that it
took, the seconds until every prompt had its first token where it can tell, and the new ids. Where
the input ends it tells the peak of its resident memory. All decode greedily and never stop early.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_ROWS = 32
MAX_TOKENS = 8192
"""Of one prompt with its answer."""

LONGEST_ROW = 256
"""Tokens of a row where there are so many; our cache has room for these, or for one of all."""

Ids = list[list[int]]
Generate = Callable[[Ids, int], dict[str, Any]]
"""Runs prompts of equal length to so many new tokens: {"ids": ...} and what else it can tell."""


def main() -> None:
    """Serve orders until there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    started_s = time.perf_counter()
    generate = CONTENDERS[options.name](options.folder, options.threads)
    generate([list(range(64, 80))], 1)
    _tell(answers, {"ready_s": time.perf_counter() - started_s, "resident": _memory("VmRSS")})
    for line in sys.stdin:
        order = json.loads(line)
        started_s = time.perf_counter()
        told = generate(order["prompts"], order["n_new"])
        told.setdefault("seconds", time.perf_counter() - started_s)
        _tell(answers, told)
    _tell(answers, {"peak": _memory("VmHWM"), "resident": _memory("VmRSS")})
    os._exit(0)  # some engines wait for threads of theirs


def by_transformers(folder: Path, threads: int) -> Generate:
    """`generate` of transformers, in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def generate(prompts: Ids, n_new: int) -> dict[str, Any]:
        ids_BT = torch.tensor(prompts)
        out_BT = model.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=n_new,
            min_new_tokens=n_new, do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        return {"ids": out_BT[:, ids_BT.shape[1] :].tolist()}

    return generate


def by_llama_cpp(folder: Path, threads: int, quant: str) -> Generate:
    """llama.cpp's own batch interface, a sequence a row, f16 keys and values, flash attention."""
    import llama_cpp
    import numpy as np

    llama_cpp.llama_backend_init()
    path = str(folder / f"{quant}.gguf").encode()
    model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    contexts: dict[int, Any] = {}
    batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def context(n_rows: int, n_tokens: int) -> Any:
        """One as small as the job needs: its cache is one range of memory."""
        for old in contexts.values():
            llama_cpp.llama_free(old)
        contexts.clear()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_rows * (-(-n_tokens // 256) * 256)
        params.n_batch, params.n_ubatch, params.n_seq_max = 2048, 512, n_rows
        params.n_threads = params.n_threads_batch = threads
        contexts[0] = llama_cpp.llama_init_from_model(model, params)
        return contexts[0]

    def run(handle: Any, tokens: list[tuple[int, int, int, bool]]) -> None:
        batch.n_tokens = len(tokens)
        for n, (token_id, position, row, is_wanted) in enumerate(tokens):
            batch.token[n], batch.pos[n], batch.logits[n] = token_id, position, is_wanted
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
        if llama_cpp.llama_decode(handle, batch):
            raise RuntimeError("llama_decode failed")

    def best(handle: Any, places: list[int]) -> list[int]:
        rows = [llama_cpp.llama_get_logits_ith(handle, place) for place in places]
        return [int(np.ctypeslib.as_array(row, (n_vocab,)).argmax()) for row in rows]

    def generate(prompts: Ids, n_new: int) -> dict[str, Any]:
        handle = context(len(prompts), len(prompts[0]) + n_new)
        started_s = time.perf_counter()
        newest = [0] * len(prompts)
        tokens = [
            (token_id, n, row, n == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for n, token_id in enumerate(prompt)
        ]
        for at in range(0, len(tokens), 2048):
            part = tokens[at : at + 2048]
            run(handle, part)
            places = [n for n, token in enumerate(part) if token[3]]
            for place, token_id in zip(places, best(handle, places), strict=True):
                newest[part[place][2]] = token_id
        first_s = time.perf_counter() - started_s
        ids = [[token_id] for token_id in newest]
        for n in range(len(prompts[0]), len(prompts[0]) + n_new - 1):
            run(handle, [(row[-1], n, number, True) for number, row in enumerate(ids)])
            for row, token_id in zip(ids, best(handle, list(range(len(ids)))), strict=True):
                row.append(token_id)
        return {"ids": ids, "first_s": first_s, "seconds": time.perf_counter() - started_s}

    return generate


def by_vllm(folder: Path, threads: int) -> Generate:
    """VLLM in this process, as it comes, its prefix cache off."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": cores, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder / "hf"), dtype="bfloat16", max_model_len=MAX_TOKENS, max_num_seqs=MAX_ROWS,
        enable_prefix_caching=False, skip_tokenizer_init=True, seed=0,
    )  # fmt: skip

    def generate(prompts: Ids, n_new: int) -> dict[str, Any]:
        sampling = SamplingParams(
            temperature=0, max_tokens=n_new, min_tokens=n_new, ignore_eos=True, detokenize=False
        )
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(inputs, sampling, use_tqdm=False)
        return {"ids": [list(output.outputs[0].token_ids) for output in outputs]}

    return generate


def by_mulm(folder: Path, threads: int, bits: str = "bf16", native: bool = True) -> Generate:
    """Our engine, with the kernels or in plain PyTorch."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch

    from benchmarks.serve_engine import make_engine
    from mulm.messages import GenerateRequest, SamplingParams
    from mulm.model.batch import PAGE_TOKENS

    torch.set_num_threads(threads)
    n_pages = max(MAX_TOKENS, MAX_ROWS * LONGEST_ROW) // PAGE_TOKENS + MAX_ROWS
    engine = make_engine(folder, bits=bits, is_native=native, n_slots=MAX_ROWS, n_pages=n_pages)
    number = 0

    def generate(prompts: Ids, n_new: int) -> dict[str, Any]:
        nonlocal number
        number += 1
        sampling = SamplingParams(max_tokens=n_new, temperature=0)
        names = [f"{number}-{row}" for row in range(len(prompts))]
        answers: dict[str, list[int]] = {name: [] for name in names}
        started_s, first_s = time.perf_counter(), 0.0
        for name, prompt in zip(names, prompts, strict=True):
            engine.add(GenerateRequest(name, tuple(prompt), sampling))
        while engine.n_unfinished:
            for chunk in engine.step():
                answers[chunk.request_id] += chunk.token_ids
            if not first_s and all(answers.values()):
                first_s = time.perf_counter() - started_s
        return {"ids": list(answers.values()), "first_s": first_s}

    return generate


def _memory(name: str) -> int:
    """Bytes, as Linux counts them for this process."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def _tell(file: Any, values: dict[str, Any]) -> None:
    file.write(json.dumps(values) + "\n")
    file.flush()


CONTENDERS: dict[str, Callable[[Path, int], Generate]] = {
    "mulm": by_mulm,
    "mulm int8": lambda folder, threads: by_mulm(folder, threads, "int8"),
    "mulm int4": lambda folder, threads: by_mulm(folder, threads, "int4"),
    "mulm plain": lambda folder, threads: by_mulm(folder, threads, native=False),
    "transformers": by_transformers,
    "vLLM": by_vllm,
    "llama.cpp bf16": lambda folder, threads: by_llama_cpp(folder, threads, "bf16"),
    "llama.cpp Q8_0": lambda folder, threads: by_llama_cpp(folder, threads, "q8_0"),
    "llama.cpp Q4_0": lambda folder, threads: by_llama_cpp(folder, threads, "q4_0"),
}

if __name__ == "__main__":
    main()
