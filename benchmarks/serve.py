"""Speed and memory of inference beside peers: same weights, prompts, greedy choice, one run.

    python -m benchmarks.serve 20M --python vLLM=PATH llama.cpp=PATH
    python -m benchmarks.serve 135M --cells decode-8 decode-32 --json speeds.json
    python -m benchmarks.serve 135M --json speeds.json --only-table

Every engine is a process of its own (`benchmarks.serve_contenders`), in the environment that
`--python` names by the first word of its name, else in this one; they take their orders in turn, so
that a change of the machine's speed meets all alike. The bandwidth of memory and the peak of bf16
products are measured beside them. With `--json` what was measured is kept and joined by the next
call, so that a long run can be cut into short ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.serve_contenders import CONTENDERS
from benchmarks.serve_shapes import SHAPES, weights_folder
from benchmarks.serve_table import CELLS, Cell, Results, print_tables
from mulm.train.flops import measured_peak_flops

SCRIPT = Path(__file__).with_name("serve_contenders.py")
WARM_NEW_TOKENS = 4
FIRST_ID, LAST_ID = 64, 320
"""Ids that every vocabulary has and that are no special token."""


@dataclass(slots=True)
class Contender:
    """A running engine."""

    name: str
    process: subprocess.Popen[str]
    errors: IO[str]

    def read(self) -> dict[str, Any] | None:
        """Its next answer; None where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, prompts: list[list[int]], n_new: int) -> dict[str, Any]:
        """Have it generate."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": prompts, "n_new": n_new}) + "\n")
        self.process.stdin.flush()
        told = self.read()
        if told is None:
            sys.exit(f"{self.name} ended:\n{self.last_words()}")
        return told

    def last_words(self) -> str:
        """The end of what it complained about."""
        self.errors.seek(0)
        return self.errors.read()[-2000:]

    def end(self) -> dict[str, Any]:
        """Let it end, and learn what memory it took."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        told = self.read() or {}
        self.process.wait()
        return told


def main() -> None:
    """Measure what is asked for and print the tables."""
    options = parse()
    results = Results.load(options.json, options.shape)
    if not options.only_table:
        torch.set_num_threads(options.threads)
        measure(results, options)
        results.save(options.json)
    print_tables(results, SHAPES[options.shape])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--weights", type=Path, help="Where exports are kept; else in passing.")
    parser.add_argument("--json", type=Path, help="Results to go on with, and to be written.")
    parser.add_argument("--only-table", action="store_true")
    return parser.parse_args()


def measure(results: Results, options: argparse.Namespace) -> None:
    """All cells, all contenders in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = weights_folder(options.weights or Path(temporary), options.shape)
        results.note_machine(read_bandwidth(), peak_flops())
        contenders = [c for name in options.only if (c := begin(name, folder, options, results))]
        for name in options.cells:
            if name == "agree":
                results.note_answers({c.name: first_tokens(c) for c in contenders})
            else:
                run_cell(CELLS[name], contenders, options.rounds, results)
        results.note_machine(read_bandwidth(), peak_flops())
        for contender in contenders:
            results.note_memory(contender.name, contender.end())


def begin(
    name: str, folder: Path, options: argparse.Namespace, results: Results
) -> Contender | None:
    """Start an engine and wait for its first token; None where it is not installed."""
    pythons = dict(pair.split("=", 1) for pair in options.python)
    python = pythons.get(name.split()[0], sys.executable)
    command = [python, str(SCRIPT), name, str(folder), "--threads", str(options.threads)]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
    started_s = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - an engine that the user named
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    contender = Contender(name, process, errors)
    told = contender.read()
    if told is None:
        process.wait()
        print(f"{name}: left out: {contender.last_words().splitlines()[-1:]}", file=sys.stderr)
        return None
    results.note_start(name, time.perf_counter() - started_s)
    print(f"{name}: first token after {told['ready_s']:.1f} s", file=sys.stderr, flush=True)
    return contender


def run_cell(cell: Cell, contenders: list[Contender], rounds: int, results: Results) -> None:
    """Some rounds, each with prompts that nobody has seen; one more, short and unseen, to warm."""
    for contender in contenders:
        contender.ask(prompts(cell, 0), min(WARM_NEW_TOKENS, cell.n_new))
        results.forget(cell.name, contender.name)
    for number in range(1, rounds + 1):
        results.note_machine(read_bandwidth(), peak_flops())
        for contender in contenders:
            first_s = contender.ask(prompts(cell, number), 1)["seconds"]
            whole_s = first_s
            if cell.n_new > 1:
                whole_s = contender.ask(prompts(cell, -number), cell.n_new)["seconds"]
            results.note(cell.name, contender.name, first_s, whole_s)
            speed = cell.speed(first_s, whole_s)
            print(f"{cell.name} {contender.name}: {speed:,.0f}", file=sys.stderr, flush=True)


def first_tokens(contender: Contender) -> list[int]:
    """The greedy first tokens of many short prompts."""
    asked = prompts(CELLS["agree"], 0)
    answers = contender.ask(asked[:32], 1)["ids"] + contender.ask(asked[32:], 1)["ids"]
    return [ids[0] for ids in answers]


def prompts(cell: Cell, number: int) -> list[list[int]]:
    """Random ids, others for each cell and number: no engine has read their beginnings."""
    generator = torch.Generator().manual_seed(1000 * list(CELLS).index(cell.name) + number + 500)
    size = (cell.rows, cell.n_prompt)
    rows: list[list[int]] = torch.randint(FIRST_ID, LAST_ID, size, generator=generator).tolist()
    return rows


def read_bandwidth() -> float:
    """Bytes a second that all threads read from memory, the best of some sums."""
    numbers = torch.ones(64 << 20)
    best_s = min(_seconds_of_sum(numbers) for _ in range(8))
    return numbers.nbytes / best_s


def _seconds_of_sum(numbers: torch.Tensor) -> float:
    started_s = time.perf_counter()
    numbers.sum()
    return time.perf_counter() - started_s


def peak_flops() -> float:
    """Of bf16 products, in operations a second."""
    return measured_peak_flops(torch.device("cpu"), torch.bfloat16)


if __name__ == "__main__":
    main()
