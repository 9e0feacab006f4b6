"""An executor on Ray Data: the tasks of a dataset build, carried out by a cluster.

Made by `jobs.prepare` for corpora that are worth it. Invariants: workers compute and return bytes,
the driver alone writes to the store; a task's products come in their order, and its end after them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from mulm.data.executor import Made, Product, Work

_SCHEMA = pa.schema(
    [
        ("place", pa.int64()),
        ("name", pa.string()),  # "" at the end of a task
        ("content", pa.large_binary()),
        ("rows", pa.int64()),
        ("content_sha256", pa.string()),
    ]
)
_CPUS_PER_TASK = 1.0
_BLOCKS_PER_CPU = 16
"""A Ray task costs some 60 ms beside its work; enough of them remain to share work out evenly."""


class RayData:
    """An `Executor` whose stages are Ray Data graphs; a Ray task carries out some of our tasks."""

    def __init__(self) -> None:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True  # an error of ours keeps its code and hint
        logging.getLogger("ray.data").setLevel(logging.WARNING)

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        """See `Executor.run`."""
        if not tasks:
            return
        shared = ray.put((work, list(tasks)))
        places = ray.data.from_items(
            [{"place": place} for place in range(len(tasks))],
            override_num_blocks=min(len(tasks), _BLOCKS_PER_CPU * _n_cpus()),
        )
        made = places.map_batches(
            partial(_carry_out, shared),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=_CPUS_PER_TASK,
            label_selector=_this_machine() if stays_here else None,
        )
        for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for row in batch.to_pylist():
                yield int(row["place"]), _product(row)


def _n_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _this_machine() -> dict[str, str]:
    """The label that Ray gives to the machine of this process alone."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _carry_out(shared: Any, batch: pa.Table) -> Iterator[pa.Table]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Ray already runs a task on each core
    work, tasks = ray.get(shared)
    for place in batch["place"].to_pylist():
        for product in work(tasks[place]):
            yield _row(place, product)
        yield _row(place, Product("", b""))


def _row(place: int, product: Product) -> pa.Table:
    values = {
        "place": place,
        "name": product.name,
        "content": product.content,
        "rows": product.rows,
        "content_sha256": product.content_sha256,
    }
    return pa.Table.from_pylist([values], schema=_SCHEMA)


def _product(row: dict[str, Any]) -> Product | None:
    if not row["name"]:
        return None
    return Product(row["name"], row["content"], row["rows"], row["content_sha256"])
