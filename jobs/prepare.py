"""`python -m jobs.prepare`: text to a dataset version, on Ray Data.

Run by `ray job submit` and by `mulm data build`. The graph is made of the pure functions of
`mulm.data`: this module says only where they run. Invariants: the result is that of
`mulm.data.build` in process, bit for bit, whatever the number of blocks; workers compute and
return bytes, the driver alone writes to the store.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from jobs.entry import JobContext, run_job
from jobs.identity import prepare_identity
from mulm.data.build import Build, build
from mulm.data.documents import (
    DOCUMENT_SCHEMA,
    INDEX_SCHEMA,
    FileTask,
    Plan,
    assign,
    in_order,
    to_parquet,
)
from mulm.data.encode import Encoded
from mulm.data.executor import EncodeShard, Executor, ReadFile, ShardTask
from mulm.data.recipe import Recipe
from mulm.data.sources.base import SourceFile
from mulm.facts import Facts, Version
from mulm.refs import parse_ref

# Ray Data reads, shuffles and maps at the same time: whole CPUs would starve one of them.
_CPUS_PER_TASK = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the recipe of `--config` describes; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("prepare", arguments, Recipe, prepare, prepare_identity)


def prepare(
    context: JobContext, recipe: Recipe, executor: Executor | None = None
) -> dict[str, Any]:
    """Build, publish, and say what was made; on Ray Data unless another executor is given."""
    given = _given_tokenizer(recipe, context.facts)
    tokenizer = context.store.load(given.manifest_id) if given else None
    executor = executor or RayData()
    built = build(recipe, context.store, executor, tokenizer=tokenizer, emit=context.emit)
    publish = context.facts.publish
    vocabulary = given or publish("tokenizer", recipe.name, built.tokenizer.id)
    dataset = publish("dataset", recipe.name, built.dataset.id)
    return _result(built, dataset, vocabulary)


class RayData:
    """An `Executor` whose stages are Ray Data graphs.

    Args:
        n_blocks: Blocks to begin with; by default at most one a file and four a CPU.
    """

    def __init__(self, n_blocks: int | None = None) -> None:
        self._n_blocks = n_blocks
        self._documents: Any = None
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True  # an error of ours keeps its code and hint
        logging.getLogger("ray.data").setLevel(logging.WARNING)

    def read(self, tasks: Sequence[FileTask], read_file: ReadFile) -> pa.Table:
        """See `Executor.read`; the texts stay in the cluster's object store."""
        rows = [
            {"number": t.number, "source": t.source, "name": t.file.name, "path": str(t.file.path)}
            for t in tasks
        ]
        files = ray.data.from_items(rows, override_num_blocks=self._blocks(len(rows)))
        self._documents = _map(files, partial(_read_files, read_file)).materialize()
        index = self._documents.select_columns(INDEX_SCHEMA.names)
        return in_order(ray.get(index.to_arrow_refs()))

    def shards(self, plan: Plan) -> Iterator[tuple[int, bytes, int]]:
        """See `Executor.shards`: a shuffle brings the documents of a shard together."""
        shared = ray.put(plan)
        assigned = _map(self._documents, partial(_assign, shared))
        # Without a number of partitions a shuffle makes 200.
        groups = assigned.groupby("shard", num_partitions=self._blocks(len(plan.shard_names)))
        written = groups.map_groups(_write, batch_format="pyarrow", num_cpus=_CPUS_PER_TASK)
        for row in written.iter_rows():
            yield int(row["shard"]), bytes(row["content"]), int(row["n_documents"])
        self._documents = None

    def encode(
        self, tasks: Sequence[ShardTask], encode_shard: EncodeShard
    ) -> Iterator[tuple[int, Encoded]]:
        """See `Executor.encode`."""
        refs = [ray.put(task.load()) for task in tasks]
        rows = [{"place": i, "chat_fraction": task.chat_fraction} for i, task in enumerate(tasks)]
        places = ray.data.from_items(rows, override_num_blocks=self._blocks(len(rows)))
        for row in _map(places, partial(_encode, refs, encode_shard)).iter_rows():
            counts = (int(row[name]) for name in ("n_tokens", "n_documents", "n_text_bytes"))
            yield int(row["place"]), Encoded(bytes(row["content"]), *counts)

    def _blocks(self, n_items: int) -> int:
        most = self._n_blocks or 4 * int(ray.cluster_resources().get("CPU", 1))
        return max(1, min(n_items, most))


def _map(dataset: Any, function: Any) -> Any:
    return dataset.map_batches(
        function, batch_format="pyarrow", batch_size=None, num_cpus=_CPUS_PER_TASK
    )


def _read_files(read_file: ReadFile, batch: pa.Table) -> pa.Table:
    tables = [
        read_file(
            FileTask(row["number"], row["source"], SourceFile(row["name"], Path(row["path"])))
        )
        for row in batch.to_pylist()
    ]
    return pa.concat_tables([DOCUMENT_SCHEMA.empty_table(), *tables])


def _assign(shared: Any, batch: pa.Table) -> pa.Table:
    plan: Plan = ray.get(shared)
    return assign(batch, plan)


def _write(group: pa.Table) -> pa.Table:
    row = {
        "shard": group["shard"][0].as_py(),
        "content": to_parquet(group),
        "n_documents": len(group),
    }
    return pa.Table.from_pylist([row])


def _encode(refs: Sequence[Any], encode_shard: EncodeShard, batch: pa.Table) -> pa.Table:
    # Ray already runs a task on each core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = []
    for row in batch.to_pylist():
        encoded = encode_shard(ray.get(refs[row["place"]]), row["chat_fraction"])
        rows.append(
            {
                "place": row["place"],
                "content": encoded.content,
                "n_tokens": encoded.n_tokens,
                "n_documents": encoded.n_documents,
                "n_text_bytes": encoded.n_text_bytes,
            }
        )
    return pa.Table.from_pylist(rows)


def _given_tokenizer(recipe: Recipe, facts: Facts) -> Version | None:
    ref = recipe.tokenizer.ref
    return facts.resolve("tokenizer", parse_ref(ref)) if ref else None


def _result(built: Build, dataset: Version, tokenizer: Version) -> dict[str, Any]:
    counts = built.dataset.counts
    names = ("train_tokens", "validation_tokens", "train_bytes", "validation_bytes")
    return {
        "dataset": dataset.ref,
        "dataset_id": built.dataset.id,
        "tokenizer": tokenizer.ref,
        "tokenizer_id": built.tokenizer.id,
        "documents": built.documents.counts["documents"],
        "documents_id": built.documents.id,
        **{name: counts[name] for name in names},
        "vocab_size": counts["vocab_size"],
        "rejects": built.rejects,
    }


if __name__ == "__main__":
    sys.exit(main())
