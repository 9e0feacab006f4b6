"""Does llama.cpp say what we say? Token ids and greedy texts of an exported model, side by side.

    python benchmarks/llama_cpp_greedy.py demo --llama-python PATH

PATH is the Python of an environment that has `llama-cpp-python`; ours need not. Models, shape and
corpus are those of MULM_HOME. Prints one JSON object; exit code 1 if anything differs.

The same fp16 weights are on both sides: we compute with them in fp32, llama.cpp in its own mix, so
a greedy text may part where two tokens are nearly alike. `margin` is then what our model gave
the two of them apart, in nats.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPTS = (
    "It was a dark night, and",
    "There was once a king who had",
    "Alice looked into the garden, and",
    "The wizard said",
    "My dear Watson,",
    "The ship lay at anchor",
    "It is a truth universally acknowledged",
    "In the year 1895 the Time Traveller",
)
N_NEW_TOKENS = 48
HARD_TEXTS = (
    "don't DON'T we'll 1234567 3.14159 naïve café 日本語 🙂👍🏽 a\u0301 \t\ttabs  \n\n \n  x  ",
    "<|im_end|> spelled out </s> [INST]",
    "   leading,\r\nwindows line ends\r\n\r\n",
    "x" * 200,
    "ﬁ ſt 'ſ ⅷ ٣٤٥ ١",
)


def main() -> int:
    """Parent: export, ask both sides, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--quant", default="f16")
    parser.add_argument("--corpus", type=Path, default=Path("corpora/books"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        ours, tokenizer = export(arguments.model, path, arguments.quant)
        texts = [*HARD_TEXTS, *corpus(arguments.corpus)]
        prompts = [[tokenizer.end_of_text_id, *tokenizer.encode(text)] for text in PROMPTS]
        order = {"path": str(path), "texts": texts, "prompts": prompts, "n_new": N_NEW_TOKENS}
        theirs = ask_child(arguments.llama_python, order)
    report = compare(ours, tokenizer, texts, prompts, theirs)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    differs = report["texts_with_other_ids"] or report["greedy_equal"] < len(prompts)
    return 1 if differs else 0


def export(ref: str, path: Path, quant: str) -> tuple[Any, Any]:
    """Write the file; our model with the same rounded weights, and its tokenizer."""
    import torch

    from mulm.home import Home
    from mulm.ledger import Ledger
    from mulm.model.gguf_blocks import BLOCK_TYPES
    from mulm.model.gguf_model import write_gguf
    from mulm.model.model_files import open_model_files
    from mulm.model.stored import load_model
    from mulm.refs import parse_ref
    from mulm.store import Store

    home = Home.from_env()
    with Ledger(home.ledger) as facts:
        version = facts.resolve("model", parse_ref(ref))
    store = Store(home.store)
    manifest = store.load(version.manifest_id)
    with open_model_files(store, manifest) as files:
        write_gguf(path, files, BLOCK_TYPES[quant], name=version.ref)
        model = load_model(store, manifest, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.half().float())
        return model, files.tokenizer


def corpus(folder: Path) -> list[str]:
    """Paragraphs of the books, about 200 KB of them."""
    import gzip

    paragraphs: list[str] = []
    for path in sorted(folder.glob("*.txt.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        paragraphs += text.replace("\r\n", "\n")[5000:35_000].split("\n\n")
    return [paragraph for paragraph in paragraphs if paragraph]


def ask_child(python: str, order: dict[str, Any]) -> dict[str, Any]:
    """What llama.cpp says, from an environment of its own."""
    done = subprocess.run(  # noqa: S603 - this very file
        [python, __file__, "--child"], input=json.dumps(order), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(
    model: Any, tokenizer: Any, texts: list[str], prompts: list[list[int]], theirs: dict[str, Any]
) -> dict[str, Any]:
    """What is equal, and where it is not."""
    own_ids = [tokenizer.encode(text) for text in texts]
    other = [t for t, own, ids in zip(texts, own_ids, theirs["ids"], strict=True) if own != ids]
    answers = greedy(model, prompts)
    partings = [
        parting(model, prompt, ours, said)
        for prompt, ours, said in zip(prompts, answers, theirs["greedy"], strict=True)
        if ours != said
    ]
    return {
        "llama_cpp_python": theirs["version"],
        "texts": len(texts),
        "tokens": sum(map(len, own_ids)),
        "texts_with_other_ids": len(other),
        "examples": other[:5],
        "prompts": len(prompts),
        "new_tokens_each": N_NEW_TOKENS,
        "greedy_equal": len(prompts) - len(partings),
        "partings": partings,
        "first_answer": tokenizer.decode(answers[0]),
    }


def greedy(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Our engine's greedy ids."""
    from mulm.engine.engine import Engine
    from mulm.messages import GenerateRequest, SamplingParams

    sampling = SamplingParams(max_tokens=N_NEW_TOKENS, temperature=0)
    requests = [GenerateRequest(str(n), tuple(ids), sampling) for n, ids in enumerate(prompts)]
    answers = Engine(model, n_slots=4).generate(requests)
    return [list(answers[request.request_id].token_ids) for request in requests]


def parting(model: Any, prompt: list[int], ours: list[int], theirs: list[int]) -> dict[str, Any]:
    """After how many tokens two answers part, and how near the two tokens are for our model."""
    import torch

    at = next(n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
    hidden_BTD = model(torch.tensor([prompt + ours[:at]]))
    logits_V = model.logits(hidden_BTD[0, -1])
    return {"after": at, "margin": round(float(logits_V[ours[at]] - logits_V[theirs[at]]), 5)}


def child() -> None:
    """The other side: ids of texts and greedy continuations of id lists, by llama.cpp alone."""
    import llama_cpp

    order = json.load(sys.stdin)
    llama = llama_cpp.Llama(order["path"], n_ctx=512, n_threads=1, verbose=False)
    ids = [llama.tokenize(text.encode(), add_bos=False, special=False) for text in order["texts"]]
    answers = []
    for prompt in order["prompts"]:
        llama.reset()
        tokens = llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        answers.append([next(tokens) for _ in range(order["n_new"])])
    version = llama_cpp.__version__
    print("\n" + json.dumps({"ids": ids, "greedy": answers, "version": version}))


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
        sys.exit()
    sys.exit(main())
