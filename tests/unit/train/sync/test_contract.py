"""What every strategy promises the loop, shown for ours; a stranger's needs one more entry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train import loop
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.gradients import divide
from mulm.train.loop import train
from mulm.train.placement import EVERYTHING_HERE
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.base import Sync
from mulm.train.sync.choice import choose_sync
from mulm.train.sync.ddp import DdpSync
from mulm.train.sync.ddp_lowrank import DdpLowRankSync
from mulm.train.sync.diloco import DilocoSync
from mulm.train.sync.island import IslandPlan
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.single import SingleSync
from tests.unit.train.workers import N_WORKERS, Workers

CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 5, "batch_tokens": 80,
        "seq_len": 16, "precision": "fp32", "log_every": 1, "workers": 1,
    }
)  # fmt: skip


class EverySecond:
    """A strategy that does not talk at every step: weights become their mean at every second."""

    manner = "means of weights at every second step"

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._n_steps = 0

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        assert not owners
        self._parameters = list(parameters)

    def sum_values(self, values: Sequence[float]) -> list[float]:
        return DdpSync(CPU).sum_values(values)

    def drop(self) -> None: ...

    def backward(self, *, is_last: bool) -> nullcontext[None]:
        return nullcontext()

    def mean_gradients(self, own_count: float, count: float) -> Tensor:
        return divide(self._parameters, own_count)

    @torch.no_grad()
    def after_step(self) -> None:
        self._n_steps += 1
        if self._n_steps % 2 == 0:
            for parameter in self._parameters:
                distributed.all_reduce(parameter)
                parameter.div_(N_WORKERS)


class NearRounds(Aggregator):
    """A stranger's transport: the aggregator in the island's own process."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def island(
    inside: Sync, rank: int = 0, n_workers: int = 1, *, aggregator: NearRounds, name: str = "a"
) -> DilocoSync:
    """One whose rounds are due after every step, and waited for."""
    context = LocalContext(
        Store(Path("unused")), None, Path("unused"), CPU, lambda *_: None, lambda: False,
        rank=rank, world_size=n_workers, outer=OuterLink("", 0, "", name),
    )  # fmt: skip
    plan = IslandPlan(round_s=0.0, wire="fp32", is_blocking=True, give_up_s=10.0)
    return DilocoSync(inside, context, plan, 2, lambda _link, _bytes: aggregator)


def near_rounds() -> NearRounds:
    return NearRounds(RoundPlan(n_rows=8, granule=4, wire="fp32", grace_s=20.0))


STRATEGIES: dict[str, Callable[[int], Sync]] = {
    "single": lambda _: SingleSync(),
    "island of one": lambda rank: island(SingleSync(), rank, aggregator=near_rounds()),
    "ddp": lambda _: DdpSync(CPU, bucket_bytes=64),
    "ddp, late": lambda _: DdpSync(CPU, bucket_bytes=64, overlaps=False),
    "ddp_lowrank": lambda _: DdpLowRankSync(CPU, 1),
    "island of two": lambda rank: island(
        DdpSync(CPU, bucket_bytes=64), rank, N_WORKERS, aggregator=near_rounds()
    ),
    "every second": lambda _: EverySecond(),
}
OF_ONE = ("single", "island of one")


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def go_back(model: nn.Module, sync: Sync, rows: Tensor) -> None:
    """Two micro-batches."""
    for number, part in enumerate(rows.split(2), start=1):
        with sync.backward(is_last=number == 2):
            model(part).square().sum().backward()


def fail_at_the_end(model: nn.Module, sync: Sync, rows: Tensor) -> None:
    """Memory runs out when all but the first layer's gradients are complete."""

    def run_out(_: nn.Parameter) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = next(model.parameters()).register_post_accumulate_grad_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError), sync.backward(is_last=True):
        model(rows).square().sum().backward()
    hook.remove()
    model.zero_grad(set_to_none=True)


def keep_the_contract(rank: int, name: str, n_workers: int) -> None:
    sync, model = STRATEGIES[name](rank), layers()
    parameters = list(model.parameters())
    sync.attach(parameters)
    assert sync.manner
    assert sync.sum_values([1.0, rank + 0.5]) == [n_workers, n_workers**2 / 2]
    rows = torch.arange(16.0).view(4, 4) * (rank + 1)
    go_back(model, sync, rows)
    norms = sync.mean_gradients(4.0, 4.0 * n_workers).clone()
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    assert len(found) == len(parameters)
    assert torch.equal(norms, torch.stack([gradient.norm() for gradient in found]))
    model.zero_grad(set_to_none=True)
    go_back(model, sync, rows)  # a step that is passed over: its gradients are not asked for
    sync.drop()
    model.zero_grad(set_to_none=True)
    if rank == 0:
        fail_at_the_end(model, sync, rows)
    go_back(model, sync, rows)
    torch.testing.assert_close(sync.mean_gradients(4.0, 4.0 * n_workers), norms)
    for parameter, gradient in zip(parameters, found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    sync.after_step()
    if isinstance(sync, DilocoSync):
        sync.close(0)


@pytest.mark.parametrize("name", OF_ONE)
def test_one_worker_keeps_the_contract(name: str) -> None:
    keep_the_contract(0, name, 1)


def test_islands_talk_over_whatever_transport_they_are_given() -> None:
    aggregator, models = near_rounds(), [layers(), layers()]
    islands = [island(SingleSync(), aggregator=aggregator, name=name) for name in "ab"]
    for sync, model in zip(islands, models, strict=True):
        sync.attach(list(model.parameters()))
    before = [parameter.detach().clone() for parameter in models[0].parameters()]
    for moved, (sync, model) in enumerate(zip(islands, models, strict=True), start=1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(moved)
        sync.mean_gradients(4.0, 4.0)  # tells it how many tokens that took
    threads = [threading.Thread(target=sync.after_step) for sync in islands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for model in models:
        for parameter, first in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(parameter.detach(), first + 1.5)
    for sync in islands:
        sync.close(0)
    assert aggregator.is_closed


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in OF_ONE])
def test_two_workers_keep_the_contract(workers: Workers, name: str) -> None:
    workers.run(keep_the_contract, name, N_WORKERS)


def trained(rank: int, root: str, world_size: int) -> tuple[list[float], str]:
    """The losses of a run whose workers talk about weights, and not at every step."""
    store, losses = Store(Path(root) / "store"), list[float]()

    def on_event(kind: str, data: Any) -> None:
        if kind == "metric" and "loss" in data:
            losses.append(data["loss"])

    context = LocalContext(
        store, tiny_dataset(store), Path(root) / "run", CPU, on_event, lambda: False,
        rank=rank, world_size=world_size,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "choose_sync", lambda *_: (EverySecond(), EVERYTHING_HERE))
        return losses, train(CONFIG, context).model_id


@pytest.mark.slow
def test_the_loop_carries_a_strategy_that_does_not_talk_at_every_step(
    workers: Workers, tmp_path: Path
) -> None:
    (losses, model_id), (others, _) = workers.run(trained, str(tmp_path), N_WORKERS)
    assert model_id
    assert not others
    assert len(losses) == CONFIG.steps
    assert losses[-1] < losses[0]


def chosen(rank: int, root: str, **changes: Any) -> tuple[str, str]:
    store = Store(Path(root) / "store")
    context = LocalContext(
        store, tiny_dataset(store), Path(root), CPU, lambda *_: None, lambda: False,
        rank=rank, world_size=changes["workers"],
    )  # fmt: skip
    sync, placement = choose_sync(CONFIG.model_copy(update=changes), context)
    return sync.manner, placement.manner


def test_one_worker_has_nobody_to_agree_with(tmp_path: Path) -> None:
    sync, placement = chosen(0, str(tmp_path), workers=1)
    assert sync == "single: one worker has nobody to agree with"
    assert placement == "optimizer states in the device (memory is no bound)"


@pytest.mark.slow
def test_the_choice_tells_its_reason(workers: Workers, tmp_path: Path) -> None:
    for changes, words in (
        (
            {},
            ("ddp: gradients are summed every step, during", "in the device (memory is no bound)"),
        ),
        ({"wire_dtype": "bf16"}, ("every step in bf16, ", "in the device (")),
        ({"sync": "ddp_lowrank"}, ("ddp_lowrank: gradients of rank 32 are summed", "(memory is")),
        (
            {"shard": True, "offload": True},
            ("ddp", "CPU's memory, shared out among 2 workers (asked"),
        ),
    ):
        for manners in workers.run(partial(chosen, **changes, workers=2), str(tmp_path)):
            for manner, part in zip(manners, words, strict=True):
                assert part in manner
