"""How fast a corpus becomes a dataset version, beside the bare encoder and `datasets.map`.

    python -m benchmarks.data [FOLDER]                    # CPU-seconds and ratios, one core
    python -m benchmarks.data [FOLDER] --repeat-to 1000   # memory and wall time at 1,000 MB
    python -m benchmarks.data [FOLDER] --repeat-to 1000 --ray   # ... and beside Ray Data

Speeds are MB of text per CPU-second of all threads; only ratios within one run mean something. A
repeated corpus has a number after every 2,000 characters, another one in each copy, so that no
document repeats another one and all of the work is done. `datasets` is measured where it is
installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mulm.config import parse_config
from mulm.data.build import build
from mulm.data.encoder import encoder_of
from mulm.data.executor import InProcess
from mulm.data.recipe import Recipe
from mulm.manifest import Manifest
from mulm.store import Store

FOLDER = Path("../shared/corpora/books_large")
VOCAB_SIZE = 8192
_MARK_EVERY_CHARS = 2000
_SECTION_CHARS = 12_000


def main() -> None:
    """Print one JSON object for each measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--repeat-to", type=int, metavar="MB")
    parser.add_argument("--ray", action="store_true", help="on Ray Data as well")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=("process", "ray"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.child:
            measure_whole(arguments.folder, Path(scratch), arguments.child, arguments.threads)
        elif arguments.repeat_to:
            repeated = repeat(arguments.folder, Path(scratch) / "texts", arguments.repeat_to)
            for path in ("process", "ray") if arguments.ray else ("process",):
                run_child(arguments.folder, path, arguments.threads)
                run_child(repeated, path, arguments.threads)
        else:
            measure_speed(arguments.folder, Path(scratch))


def measure_speed(folder: Path, scratch: Path) -> None:
    """CPU-seconds of the bare encoder, of a whole build with a given tokenizer, of a peer."""
    recipe = recipe_of(folder)
    tokenizer = build(recipe, Store(scratch / "first")).tokenizer
    store = Store(scratch / "first")
    tokenizer_json = store.read(tokenizer.blob("tokenizer.json"))
    sections = list(_sections(folder))
    n_bytes = sum(len(section.encode()) for section in sections)
    encoder = encoder_of(tokenizer_json)
    assert encoder.is_fast
    alone = _cpu_s(lambda: encoder.encode_batch(sections))
    whole = _cpu_s(lambda: rebuild(recipe, Store(scratch / "second"), store, tokenizer))
    packed = recipe.model_copy(
        update={"pack": recipe.pack.model_copy(update={"mode": "best_fit", "seq_len": 1024})}
    )
    best_fit = _cpu_s(lambda: rebuild(packed, Store(scratch / "third"), store, tokenizer))
    _say("encoder alone", n_bytes, alone, alone)
    _say("clean, dedup, encode, concatenate", n_bytes, whole, alone)
    _say("clean, dedup, encode, pack best-fit", n_bytes, best_fit, alone)
    peer = measure_datasets(sections, tokenizer_json, scratch)
    if peer is not None:
        _say("datasets.map with tokenizers", n_bytes, peer, alone)
        print(json.dumps({"ours / datasets.map": round(peer / whole, 2)}))


def rebuild(recipe: Recipe, store: Store, given: Store, tokenizer: Manifest) -> None:
    """A build from nothing but the texts and a tokenizer."""
    store.put("tokenizer.json", given.read(tokenizer.blob("tokenizer.json")))
    named = recipe.model_copy(
        update={"tokenizer": recipe.tokenizer.model_copy(update={"ref": "given"})}
    )
    build(named, store, InProcess(), tokenizer=tokenizer)


def measure_datasets(sections: list[str], tokenizer_json: bytes, scratch: Path) -> float | None:
    """CPU-seconds of Hugging Face's `datasets`, which neither cleans nor deduplicates."""
    try:
        import datasets
    except ImportError:
        print("datasets is not installed: not measured")
        return None
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"ids": [e.ids for e in tokenizer.encode_batch_fast(batch["text"])]}

    def work() -> None:
        rows = datasets.Dataset.from_dict({"text": sections})
        encoded = rows.map(encode, batched=True, remove_columns=["text"])
        encoded.save_to_disk(str(scratch / "datasets"))

    return _cpu_s(work)


def run_child(folder: Path, path: str, threads: int) -> None:
    """Measure in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.data", str(folder), "--child", path]
    subprocess.run([*command, "--threads", str(threads)], check=True)  # noqa: S603 ourselves


def measure_whole(folder: Path, scratch: Path, path: str, threads: int) -> None:
    """Wall time and peak memory of one build, tokenizer left out of the time."""
    if path == "ray":
        import ray

        from jobs.ray_data import RayData

        ray.init(num_cpus=threads, log_to_driver=False, include_dashboard=False)
        executor: Any = RayData()
    else:
        executor = InProcess(threads)
    stages: dict[str, float] = {}

    def emit(kind: str, **data: Any) -> None:
        if kind == "stage":
            stages[data["name"]] = round(data["seconds"], 1)

    build(recipe_of(folder), Store(scratch / "store"), executor, emit=emit)
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    work_s = stages["documents"] + stages["dataset"]
    print(
        json.dumps(
            {
                "path": path,
                "size_mb": round(size_bytes / 1e6),
                "seconds": stages,
                "mb_per_s": round(size_bytes / 1e6 / work_s, 2),
                "peak_memory_mb": round(_peak_bytes() / 1e6),
            }
        ),
        flush=True,
    )


def repeat(folder: Path, target: Path, size_mb: int) -> Path:
    """Copies of all files until they have that size, none of them with the same sections."""
    target.mkdir(parents=True)
    size_bytes, copy = 0, 0
    files = sorted(folder.iterdir())
    while size_bytes < size_mb * 1_000_000:
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace")
            pieces = (
                text[start : start + _MARK_EVERY_CHARS]
                for start in range(0, len(text), _MARK_EVERY_CHARS)
            )
            content = f" {copy} ".join(pieces).encode()
            (target / f"{copy:03}-{file.name}").write_bytes(content)
            size_bytes += len(content)
        copy += 1
    return target


def recipe_of(folder: Path) -> Recipe:
    """The default rules over a folder."""
    return parse_config(
        Recipe,
        {
            "name": "bench",
            "sources": [{"path": str(folder)}],
            "tokenizer": {"vocab_size": VOCAB_SIZE},
        },
    )


def _sections(folder: Path) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        text = file.read_text(encoding="utf-8", errors="replace")
        for start in range(0, len(text), _SECTION_CHARS):
            yield text[start : start + _SECTION_CHARS]


def _cpu_s(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


def _say(what: str, n_bytes: int, cpu_s: float, alone_s: float) -> None:
    values = {
        "what": what,
        "mb_per_cpu_s": round(n_bytes / 1e6 / cpu_s, 2),
        "of_encoder_alone": round(alone_s / cpu_s, 2),
    }
    print(json.dumps(values), flush=True)


def _peak_bytes() -> int:
    """The most memory that this process has had in RAM (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    main()
