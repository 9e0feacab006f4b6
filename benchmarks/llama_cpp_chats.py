"""Does llama.cpp read conversations as we do? Ids of rendered chats, in each chat format.

    python benchmarks/llama_cpp_chats.py --llama-python PATH

PATH is the Python of an environment that has `llama-cpp-python`; ours need not. It gets a GGUF file
of a tiny random model and twenty conversations, renders them by the template in the file with the
Jinja of `llama-cpp-python` (Python's; llama.cpp's own, in C++, is not asked), and llama.cpp turns
the texts into ids, special tokens recognised. Prints a line per format; exit code 1 if any id
differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PIECES = (
    "Hello", "  two spaces", "\n", "\n\nlines", "isn't", "1234567", "naïve café", "日本語", "🙂",
    " ", "\t", "<|not special|>", "{{ bos_token }}", "user\n", "", "trailing \n",
)  # fmt: skip
N_CONVERSATIONS = 20
ENDS = ("bos", "eos")


def main() -> int:
    """Parent: export with each tokenizer, ask, compare."""
    from mulm.testing import tiny_llama3_tokenizer, tiny_tokenizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--llama-python", required=True)
    arguments = parser.parse_args()
    n_other = 0
    for tokenizer in (tiny_tokenizer(), tiny_llama3_tokenizer()):
        ours, theirs = both_sides(tokenizer, arguments.llama_python)
        equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
        n_other += len(ours) - equal
        n_tokens = sum(map(len, ours))
        print(f"{tokenizer.chat_format.name:<8} {equal} of {len(ours)} alike, {n_tokens} tokens")
    return 1 if n_other else 0


def both_sides(tokenizer: Any, python: str) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each conversation, ours and theirs."""
    from mulm.chat import Message, render
    from mulm.model.gguf_blocks import BLOCK_TYPES
    from mulm.model.gguf_model import write_gguf
    from mulm.model.model_files import open_model_files
    from mulm.store import Store
    from mulm.testing import tiny_stored_model

    chats = conversations()
    with tempfile.TemporaryDirectory() as folder:
        store, path = Store(Path(folder) / "store"), Path(folder) / "tiny.gguf"
        with open_model_files(store, tiny_stored_model(store, tokenizer)) as files:
            write_gguf(path, files, BLOCK_TYPES["f16"], name="tiny")
        theirs = ask_child(python, {"path": str(path), "chats": chats})
    begin = tokenizer.end_of_text_id
    messages = [[Message.model_validate(turn) for turn in chat] for chat in chats]
    return [[begin, *render(chat, tokenizer)] for chat in messages], theirs


def conversations() -> list[list[dict[str, str]]]:
    """Turns of odd white space, scripts and spellings; a system message in every second chat."""
    rng = random.Random(1)
    made = []
    for n_turns in range(N_CONVERSATIONS):
        roles = ["system"] * (n_turns % 2) + ["user", "assistant"] * (n_turns // 2) + ["user"]
        made.append(
            [{"role": role, "content": "".join(rng.choices(PIECES, k=4))} for role in roles]
        )
    return made


def ask_child(python: str, order: dict[str, Any]) -> list[list[int]]:
    """What llama.cpp says, from an environment of its own."""
    done = subprocess.run(  # noqa: S603 - this very file
        [python, __file__, "--child"], input=json.dumps(order), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    answer: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def child() -> None:
    """The other side: nothing is known but the file and the messages."""
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    order = json.load(sys.stdin)
    llama = llama_cpp.Llama(order["path"], n_ctx=64, n_threads=1, verbose=False)
    token_ids = {what: int(llama.metadata[f"tokenizer.ggml.{what}_token_id"]) for what in ENDS}
    names = {
        f"{what}_token": llama.detokenize([i], special=True).decode()
        for what, i in token_ids.items()
    }
    formatter = Jinja2ChatFormatter(template=llama.metadata["tokenizer.chat_template"], **names)
    texts = [formatter(messages=chat).prompt for chat in order["chats"]]
    ids = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    print("\n" + json.dumps(ids))


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
        sys.exit()
    sys.exit(main())
