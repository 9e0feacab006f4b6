"""What holding an answer to a grammar costs, by vocabulary: `python -m benchmarks.grammars`.

Ours (llguidance behind `mulm.engine.grammar`) and, where it is installed, xgrammar. For each case:
the time to compile with the first mask, then random answers: time of a mask at the median, at 99 of
100 and at worst. Hostile grammars each run in a process of their own, with 20 s and 8 GB.
Tokenizers are learned from the standard library's sources, the same on every machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.errors import MulmError
from mulm.messages import Grammar

_TIMEOUT_S = 20
_MEMORY_BYTES = 8 << 30
_BIT = torch.arange(32, dtype=torch.int32)
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "maxLength": 9}},
            "required": ["street"],
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}


def _fields(n: int, is_required: bool) -> str:
    names = [f"p{i}" for i in range(n)]
    required = names if is_required else []
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return json.dumps({**schema, "required": required, "additionalProperties": False})


TYPICAL = {
    "any object": Grammar("json_object"),
    "person": Grammar("json_schema", json.dumps(_PERSON)),
    "tree": Grammar("json_schema", json.dumps(_TREE)),
    "100 fields": Grammar("json_schema", _fields(100, True)),
    "regex": Grammar("regex", r"([0-9]{3}-[0-9]{4}|[a-z]+@[a-z]+\.com)( [A-Za-z]+)*"),
    "100 choices": Grammar("choice", json.dumps([f"choice number {i}" for i in range(100)])),
}
HOSTILE = {
    "a{1,100000}": Grammar("regex", "a{1,100000}"),
    "(a{1,1000}){1,1000}": Grammar("regex", "(a{1,1000}){1,1000}"),
    "[ab]*a[ab]{30}": Grammar("regex", "[ab]*a[ab]{30}"),
    "(\\p{L}|\\p{N}){100,1000}": Grammar("regex", r"(\p{L}|\p{N}){100,1000}"),
    "4000 alternatives": Grammar("regex", "|".join(f"w{i}" for i in range(4000))),
    "100,000 brackets": Grammar("regex", "(" * 100_000 + "a" + ")" * 100_000),
    "10 MB of text": Grammar("regex", "ab" * 5_000_000),
    "schema 10,000 deep": Grammar("json_schema", '{"items":' * 10_000 + "{}" + "}" * 10_000),
    "1000 optional fields": Grammar("json_schema", _fields(1000, False)),
    "multipleOf 9999991": Grammar("json_schema", '{"type":"integer","multipleOf":9999991}'),
    "$ref to itself": Grammar(
        "json_schema", '{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}'
    ),
    "100,000 items": Grammar("json_schema", '{"type":"array","minItems":100000,"items":{}}'),
    "rules doubled 30 times": Grammar(
        "ebnf", "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} a{i + 1}\n" for i in range(30))
        + 'a30 ::= "x"\n',
    ),
    "5000 rules in a row": Grammar(
        "ebnf", "root ::= a0\n" + "".join(f'a{i} ::= a{i + 1} "y"\n' for i in range(5000))
        + 'a5000 ::= "x"\n',
    ),
    "ambiguous": Grammar("ebnf", 'root ::= root root root | root root | "a" | "aa"\n'),
}  # fmt: skip


class Matcher(Protocol):
    """An answer in progress."""

    def mask(self, mask_W: torch.Tensor) -> None:
        """Write what is allowed."""

    def accept(self, token_id: int) -> bool:
        """Take a token; whether the answer can go on."""


Compile = Callable[[Grammar], Matcher]


def ours(tokenizer: Tokenizer) -> Compile:
    """The engine's own."""
    from mulm.engine.grammar import Grammars

    grammars = Grammars(tokenizer)

    class Ours:
        def __init__(self, grammar: Grammar) -> None:
            self._constraint = grammars.compile(grammar, tokenizer.stop_ids)

        def mask(self, mask_W: torch.Tensor) -> None:
            self._constraint.fill_mask(mask_W)

        def accept(self, token_id: int) -> bool:
            self._constraint.accept(token_id)
            return not self._constraint.is_done

    return Ours


def xgrammar(tokenizer: Tokenizer) -> Compile:
    """The same by the other library, with one thread."""
    library: Any = importlib.import_module("xgrammar")
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    kind = library.VocabType.RAW
    info = library.TokenizerInfo(tokens, kind, stop_token_ids=list(tokenizer.stop_ids))
    compiler = library.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compiled(grammar: Grammar) -> Any:
        if grammar.kind == "json_object":
            return compiler.compile_builtin_json_grammar()
        if grammar.kind == "json_schema":
            return compiler.compile_json_schema(grammar.text, strict_mode=False)
        if grammar.kind == "regex":
            return compiler.compile_regex(grammar.text)
        if grammar.kind == "choice":
            choices = " | ".join(json.dumps(choice) for choice in json.loads(grammar.text))
            return compiler.compile_grammar(f"root ::= {choices}\n")
        return compiler.compile_grammar(grammar.text)

    class Theirs:
        def __init__(self, grammar: Grammar) -> None:
            self._matcher = library.GrammarMatcher(compiled(grammar))

        def mask(self, mask_W: torch.Tensor) -> None:
            mask_W.fill_(-1)
            self._matcher.fill_next_token_bitmask(mask_W[None])

        def accept(self, token_id: int) -> bool:
            return self._matcher.accept_token(token_id) and not self._matcher.is_terminated()

    return Theirs


LIBRARIES = {"llguidance": ours, "xgrammar": xgrammar}


def measure(compile_: Compile, grammar: Grammar, tokenizer: Tokenizer, n_tokens: int) -> str:
    """One row: milliseconds to compile, microseconds a mask."""
    rng, stops = random.Random(0), set(tokenizer.stop_ids)
    mask_W = torch.zeros(-(-tokenizer.vocab_size // 32), dtype=torch.int32)
    begin_s = time.perf_counter()
    try:
        matcher = compile_(grammar)
        matcher.mask(mask_W)
    except (MulmError, RuntimeError, ValueError, TypeError) as error:
        took_ms = (time.perf_counter() - begin_s) * 1e3
        return f"{took_ms:8.1f} ms  refused: {' '.join(str(error).split())[:70]}"
    compile_ms, times_s = (time.perf_counter() - begin_s) * 1e3, []
    for _ in range(n_tokens):
        begin_s = time.perf_counter()
        matcher.mask(mask_W)
        times_s.append(time.perf_counter() - begin_s)
        allowed_V = ((mask_W[:, None] >> _BIT) & 1).flatten()[: tokenizer.vocab_size]
        ids = [i for i in allowed_V.nonzero()[:, 0].tolist() if i not in stops]
        if not ids or not matcher.accept(rng.choice(ids)):
            matcher = compile_(grammar)
    times_s.sort()
    half, most, worst = (times_s[int(len(times_s) * q)] * 1e6 for q in (0.5, 0.99, 0.9999))
    return f"{compile_ms:8.1f} ms  {half:6.0f} {most:6.0f} {worst:7.0f} us"


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """Learned from the standard library's sources."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text("utf-8", "replace") for path in paths]
    deeper = sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py"))
    texts += [p.read_text("utf-8", "replace") for p in deeper if "site-packages" not in str(p)]
    return train_tokenizer(texts, vocab_size)


def run_case(library: str, path: str, name: str, n_tokens: int) -> None:
    """One case, in this process, with little memory."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    tokenizer = Tokenizer.from_bytes(Path(path).read_bytes())
    compile_ = LIBRARIES[library](tokenizer)
    print(measure(compile_, (TYPICAL | HOSTILE)[name], tokenizer, n_tokens))


def main() -> None:
    """All cases, or one where a process of its own is asked for one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="*", default=[4096, 16384, 49152])
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--case", nargs=3, metavar=("LIBRARY", "TOKENIZER", "NAME"))
    options = parser.parse_args()
    if options.case:
        library, path, name = options.case
        run_case(library, path, name, options.tokens)
        return
    torch.set_num_threads(1)
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(name)]
    for vocab_size in options.vocab:
        cases = TYPICAL | (HOSTILE if vocab_size == min(options.vocab) else {})
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(make_tokenizer(vocab_size).to_bytes())
            file.flush()
            for name in cases:
                for library in libraries:
                    row = _apart([library, file.name, name], options.tokens)
                    print(f"{vocab_size:6} {name:26} {library:10} {row}", flush=True)


def _apart(case: list[str], n_tokens: int) -> str:
    command = [sys.executable, "-m", "benchmarks.grammars", "--tokens", str(n_tokens)]
    try:
        done = subprocess.run(  # noqa: S603 - this file
            [*command, "--case", *case], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_TIMEOUT_S} s"
    if done.returncode:
        return f"died with {done.returncode}: {done.stderr.strip()[-60:]}"
    return done.stdout.strip("\n")


if __name__ == "__main__":
    main()
