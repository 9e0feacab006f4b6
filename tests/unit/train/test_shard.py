"""States that workers share out are the states, whatever is sent where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.errors import StoppedError
from mulm.model.checkpoint import checkpoints, load_checkpoint
from mulm.store import Store
from mulm.testing import TINY_SHAPE, settled_optimizer, tiny_dataset, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.optim import Optimizer, learned_parameters
from mulm.train.placement import Placement
from mulm.train.shard import assign, largest_share
from mulm.train.sync.ddp import DdpSync
from tests.unit.train.workers import Workers

PLACES = ("shard", "offload")
VALUES: dict[str, Any] = {
    "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 6, "batch_tokens": 80,
    "seq_len": 16, "precision": "fp32", "validate_every": 6, "checkpoint_every": 3,
    "keep_checkpoints": 9, "balance": False, "workers": 2,
}  # fmt: skip


def test_all_have_about_as_much() -> None:
    sizes = {"a": 9, "b": 7, "c": 6, "d": 5, "e": 5, "f": 1}
    owners = assign(sizes, 3)
    assert list(owners) == list(sizes)
    assert [sum(sizes[k] for k in sizes if owners[k] == n) for n in range(3)] == [10, 12, 11]
    assert largest_share(sizes, sizes, 3) == 12
    assert set(assign(sizes, 1).values()) == {0}


def test_a_worker_keeps_its_states_only() -> None:
    whole = Optimizer(tiny_model(), settled_optimizer(), torch.float32).tensors()
    parts = [
        Optimizer(
            tiny_model(), settled_optimizer(), torch.float32, Placement(n_shards=2, rank=rank)
        )
        for rank in range(2)
    ]
    for part in parts:
        assert {n: (t.shape, t.dtype) for n, t in part.tensors().items()} == {
            n: (t.shape, t.dtype) for n, t in whole.items()
        }
    for name in whole.keys() - {"n_steps"}:
        assert [part.tensors()[name].is_meta for part in parts] in ([True, False], [False, True])
        assert not parts[parts[0].holders()[name]].tensors()[name].is_meta
    own = [sum(t.nbytes for t in p.tensors().values() if not t.is_meta) for p in parts]
    assert max(own) < 0.6 * sum(own)


def run(
    rank: int, root: str, folder: str, world_size: int, changes: dict[str, Any], stop_at: int = 0
) -> str:
    store, asked = Store(Path(root) / "store"), 0

    def is_stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at and rank == 0

    context = LocalContext(
        store, tiny_dataset(store), Path(root) / folder, torch.device("cpu"), lambda *_: None,
        is_stopping, rank=rank, world_size=world_size,
    )  # fmt: skip
    config = TrainConfig.model_validate(VALUES | changes)
    if not stop_at:
        return train(config, context).model_id
    with pytest.raises(StoppedError):
        train(config, context)
    return ""


def saved(root: Path, folder: str) -> list[bytes]:
    """The tensors of each checkpoint, and what stands beside them but where states lay."""
    found = []
    for path in checkpoints(root / folder / "checkpoints"):
        facts = json.loads((path / "state.json").read_bytes())
        facts["config"] = {k: v for k, v in facts["config"].items() if k not in PLACES}
        found += [(path / "tensors.safetensors").read_bytes(), json.dumps(facts).encode()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [{}, {"kind": "adamw", "state_dtype": "bf16"}, {"max_grad_norm": 0.01}]
)
def test_shared_out_states_are_the_run_bit_for_bit(
    workers: Workers, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    root, changes = str(tmp_path), {"optimizer": optimizer}
    workers.run(run, root, "whole", 2, changes | {"shard": False})
    workers.run(run, root, "shared", 2, changes | {"shard": True})
    workers.run(run, root, "offloaded", 2, changes | {"shard": True, "offload": True})
    whole = saved(tmp_path, "whole")
    assert len(whole) == 4
    assert saved(tmp_path, "shared") == whole
    assert saved(tmp_path, "offloaded") == whole


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_shared_out_or_not(workers: Workers, tmp_path: Path, first: bool) -> None:
    root = str(tmp_path)
    workers.run(run, root, "whole", 2, {"shard": False})
    workers.run(run, root, "cut", 2, {"shard": first}, 5)
    workers.run(run, root, "cut", 2, {"shard": not first})
    assert saved(tmp_path, "cut")[-2:] == saved(tmp_path, "whole")[-2:]
    workers.run(run, root, "fewer", 2, {"shard": first}, 5)
    run(0, root, "fewer", 1, {"shard": not first, "workers": 1})
    expected, found = (
        load_checkpoint(checkpoints(tmp_path / folder / "checkpoints")[-1]).tensors
        for folder in ("whole", "fewer")
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def gradients_left(rank: int, wire_dtype: torch.dtype) -> tuple[int, list[torch.Tensor]]:
    """How many gradients a worker has when it steps, and the norms of all."""
    model = tiny_model().requires_grad_(True)
    optimizer = Optimizer(
        model, settled_optimizer(), torch.float32, Placement(n_shards=2, rank=rank)
    )  # fmt: skip
    parameters = list(learned_parameters(model).values())
    sync = DdpSync(torch.device("cpu"), bucket_bytes=4096, wire_dtype=wire_dtype)
    sync.attach(parameters, list(optimizer.owners.values()))
    with sync.backward(is_last=True):
        model(torch.arange(8)[None] + rank).square().sum().backward()
    norms_P = sync.mean_gradients(1.0, 2.0)
    return sum(parameter.grad is not None for parameter in parameters), list(norms_P)


@pytest.mark.slow
@pytest.mark.parametrize("wire_dtype", [torch.float32, torch.bfloat16])
def test_each_worker_has_its_gradients_only_and_knows_all_norms(
    workers: Workers, wire_dtype: torch.dtype
) -> None:
    (n_first, first), (n_second, second) = workers.run(gradients_left, wire_dtype)
    assert n_first + n_second == len(list(tiny_model().parameters()))
    assert min(n_first, n_second) > 0
    assert first == second
    assert all(float(norm) > 0 for norm in first)
