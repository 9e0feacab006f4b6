"""What a machine can do is measured by doing it."""

from __future__ import annotations

from pathlib import Path

from mulm.model.config import MicroLMConfig
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.settling import run_shape, settle
from mulm.train.sync.survey import measure_pace, round_s, task_of


class Clock:
    """Each look takes a second."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_a_round_counts_by_its_size() -> None:
    assert round_s(1000, "cpu", Clock()) == 1.0
    assert round_s(80_000_000, "cpu", Clock()) == 10.0


def test_a_machine_tells_its_pace(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dataset = tiny_dataset(store)
    config = TrainConfig.model_validate(
        {
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 7, "seq_len": 16,
            "batch_tokens": 64, "workers": 2, "precision": "fp32",
            "diloco": {"wire": "int4", "round_s": 3.0},
        }
    )  # fmt: skip
    settled = settle(config, store, dataset, {}).config
    shape: MicroLMConfig = run_shape(settled, store, dataset, {})
    pace = measure_pace(settled, shape, "cpu", pace_s=0.1)
    machine = pace.machine("here", 2, None)
    assert 0 < machine.row_s < 1.0
    assert 0 < machine.update_s < 5.0
    assert 0 < machine.round_s < 1.0
    assert machine.rows_per_s == 2 / pace.row_s
    task = task_of(settled, shape)
    assert (task.steps, task.n_rows, task.row_tokens, task.workers) == (7, 4, 16, 2)
    assert (task.wires, task.round_s, task.sum_wires) == (("int4",), 3.0, ("fp32", "bf16"))
    assert 0.5 < task.bytes_of("int4") / shape.n_parameters < 0.53
