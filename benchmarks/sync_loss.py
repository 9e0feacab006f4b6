"""What infrequent talk costs: held-out loss of islands against data-parallel training.

    OMP_NUM_THREADS=1 python -m benchmarks.sync_loss input.txt --out FILE --steps 2000

The model, the text and the batches of `benchmarks.shakespeare`, with the product's own objective,
optimizer, codec and aggregator; islands take their inner steps in turn in this one process, so that
`H`, the inner steps between two exchanges, is exact and nothing depends on the machine's speed.
`ddp` is one model that learns from whole batches; each of n islands has an n-th part of every
batch and takes as many inner steps: equal tokens. `alone` is one worker with that part of the
batches, the same time without the others' tokens, and `alone-long-batch` one with whole ones and
half as many steps. With `slower` the second island takes a step only where the first has taken so
many. `lowrank` is `ddp` whose two workers' gradients are summed by `columns` of each matrix.
`outer-average` and `outer-nesterov` have so many `rounds`, of a smaller model. Every variant is a
line of FILE, and is run once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import torch

from benchmarks.shakespeare import CONFIG, make_dataset
from mulm.config import load_config
from mulm.manifest import Manifest
from mulm.model.microlm import MicroLM
from mulm.store import Store
from mulm.train import state as states
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.gradients import divide
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.optim import learned_parameters
from mulm.train.schedule import lr_scale
from mulm.train.settled import SettledConfig
from mulm.train.settling import settle
from mulm.train.state import TrainState
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.codec import Wire
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.fragment import Fragment, cut_fragments
from mulm.train.sync.low_rank import by_shape, orthonormal
from mulm.train.sync.outer_step import Outer, OuterStep
from mulm.train.sync.rounds import Anchor, Offer, Standing
from mulm.train.sync.single import SingleSync

OUTERS: tuple[Outer, ...] = ("average", "nesterov")
OUTER = ((5, 10), (5, 40), (5, 200), (20, 40))
"""H and rounds with which the outer steps are compared."""
SMALL = {
    "d_model": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_head": 32, "d_ff": 192,
    "max_seq_len": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train: `every` is H, and updates come `late` + 1 inner steps later, if `late`.

    The first island is `slower` times as fast as the others. With `rounds` it has as many steps as
    these need, of the model `SMALL`.
    """

    name: str
    islands: int = 1
    every: int = 1
    wire: Wire = "int8"
    outer: Outer = "average"
    fragments: int = 1
    late: int = 0
    outer_lr: float = 0.7
    momentum: float = 0.9
    lr: float = 1.0
    seed: int = 0
    slower: int = 1
    columns: int = 0
    rounds: int = 0


def variants() -> Iterator[Variant]:
    """All that are compared, the most telling first."""
    for seed in (0, 1):
        yield Variant("ddp", seed=seed)
        for every in (20, 8, 50, 200):
            yield Variant("average", 2, every, seed=seed)
        yield Variant("alone", islands=-2, seed=seed)
        yield Variant("streaming", 2, 20, fragments=4, late=2, seed=seed)
        yield Variant("nesterov", 2, 20, outer="nesterov", seed=seed)
        yield Variant("alone-long-batch", islands=-1, seed=seed)
    for slower in (2, 4, 8):
        yield Variant("streaming", 2, 20, fragments=4, late=2, slower=slower)
    for every in (8, 40, 80, 200):
        yield Variant("streaming", 2, every, fragments=4, late=2)
    for columns in (4, 8, 16, 32):
        yield Variant("lowrank", columns=columns)
    yield Variant("average", 2, 20, wire="int4")
    yield Variant("average", 4, 20)
    yield Variant("nesterov", 2, 50, outer="nesterov")
    yield Variant("nesterov-gentle", 2, 20, outer="nesterov", outer_lr=0.9, momentum=0.5)
    yield Variant("average", 2, 20, wire="fp32")
    yield Variant("average-lower-rate", 2, 20, lr=0.7)
    yield Variant("average-higher-rate", 2, 20, lr=1.4)
    yield from outer_variants()


def outer_variants() -> Iterator[Variant]:
    """The two outer steps, by the number of rounds."""
    for every, rounds in OUTER:
        for seed in (0, 1):
            for outer in OUTERS:
                yield Variant(f"outer-{outer}", 2, every, outer=outer, seed=seed, rounds=rounds)


def main() -> None:
    """Run what FILE lacks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", help="names of variants")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = set(options.out.read_text().splitlines()) if options.out.exists() else set()
    known = {json.dumps(json.loads(line)["variant"]) for line in done}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        dataset = make_dataset(store, options.file.read_text(encoding="ascii"))
        for variant in variants():
            steps = variant.rounds * variant.every or options.steps
            said = asdict(variant) | {"steps": steps}
            is_wanted = not options.only or variant.name in options.only
            if is_wanted and json.dumps(said) not in known:
                nats = learn(variant, store, dataset, steps)
                with options.out.open("a") as file:
                    file.write(json.dumps({"variant": said, "nats": nats}) + "\n")


def learn(variant: Variant, store: Store, dataset: Manifest, steps: int) -> float:
    """Train; the held-out loss in nats of a character."""
    # A worker alone: with a part of each batch, or with whole ones for as many tokens.
    part = abs(variant.islands) if variant.islands != -1 else 1
    steps = steps // 2 if variant.islands == -1 else steps
    asked = CONFIG | ({"model": SMALL} if variant.rounds else {})
    config = load_config(TrainConfig, asked, [f"seed={variant.seed}", f"steps={steps}"])
    context = LocalContext(
        store, dataset, store.root / "run", torch.device("cpu"), lambda *_: None, lambda: False
    )
    settled = settle(config, store, dataset, {}).config
    objective = Pretraining(settled, context)
    islands = [fresh(settled, objective) for _ in range(max(1, variant.islands))]
    rounds = Rounds(variant, islands) if variant.islands > 1 else None
    sums = LowRankSums(islands[0], variant.columns) if variant.columns else None
    n_rows = settled.n_rows // part
    for step in range(steps):
        scale = variant.lr * lr_scale(step, steps, settled.schedule)
        for place, state in enumerate(islands):
            if place and step % variant.slower:
                continue
            if sums:
                sums.take_step(objective, step, settled.n_rows, scale)
                continue
            take_step(state, objective, step, (place * n_rows, (place + 1) * n_rows), scale)
        if rounds:
            rounds.learned(step)
            rounds.after_step(step, is_last=step == steps - 1)
    state = islands[0]
    assert isinstance(state.model, MicroLM)
    judged = objective.validate(state.model, state.dtype, SingleSync())
    return judged[objective.judged_by] * log(2)


def fresh(config: SettledConfig, objective: Pretraining) -> TrainState:
    """The same beginning for all."""
    model = objective.build(torch.Generator().manual_seed(config.seed))
    return states.fresh(config, model, torch.device("cpu"), "fp32")


def take_step(
    state: TrainState, objective: Pretraining, step: int, rows: tuple[int, int], scale: float
) -> None:
    """One inner step, as the loop takes it."""
    count = go_back(state, objective, step, rows)
    sync = SingleSync()
    sync.attach(list(learned_parameters(state.model).values()))
    state.optimizer.step(scale, sync.mean_gradients(count, count))


def go_back(state: TrainState, objective: Pretraining, step: int, rows: tuple[int, int]) -> float:
    """Gradients of the losses' sum over these rows; how many tokens they have."""
    model: Any = state.model
    model.zero_grad(set_to_none=True)
    count = 0.0
    for batch in objective.micro_batches(step, *rows):
        loss = objective.loss(model, batch, state.dtype)
        loss.total.backward()  # type: ignore[no-untyped-call]
        count += loss.count
    return count


class LowRankSums:
    """Two workers' sums, in this process; the arithmetic of `mulm.train.sync.ddp_lowrank`."""

    def __init__(self, state: TrainState, columns: int) -> None:
        self._state = state
        self._parameters = list(learned_parameters(state.model).values())
        self._workers = [by_shape(self._parameters, columns)[0] for _ in range(2)]
        self._whole = by_shape(self._parameters, columns)[1]

    def take_step(self, objective: Pretraining, step: int, n_rows: int, scale: float) -> None:
        """A step on a whole batch, each worker a half of it."""
        lefts, wholes, half = [], [], n_rows // 2
        for place, worker in enumerate(self._workers):
            rows = (place * half, (place + 1) * half)
            count = 2 * go_back(self._state, objective, step, rows)
            wholes.append([p.grad / count for p in self._whole if p.grad is not None])
            lefts.append([matrices.take(count) for matrices in worker])
        spans = [orthonormal(own + other) for own, other in zip(*lefts, strict=True)]
        rights = [[m.split(x) for m, x in zip(w, spans, strict=True)] for w in self._workers]
        for worker in self._workers:
            for number, matrices in enumerate(worker):
                matrices.give(spans[number], rights[0][number] + rights[1][number])
        for parameter, own, other in zip(self._whole, *wholes, strict=True):
            parameter.grad = own + other
        self._state.optimizer.step(scale, divide(self._parameters, 1.0))


class Rounds:
    """The islands' exchanges, in lockstep; the arithmetic of `mulm.train.sync.island`."""

    def __init__(self, variant: Variant, islands: Sequence[TrainState]) -> None:
        self._variant = variant
        self._codec = CODECS[variant.wire]
        self._cuts = [
            cut_fragments(list(learned_parameters(state.model).values()), variant.fragments)
            for state in islands
        ]
        sizes = tuple(fragment.size for fragment in self._cuts[0])
        outer = OuterStep(variant.outer, variant.outer_lr, variant.momentum)
        self._aggregator = Aggregator(RoundPlan(1, 1, variant.wire, outer), lambda: 0.0)
        self._anchors = [[fragment.read() for fragment in cut] for cut in self._cuts]
        for place in range(len(islands)):
            self._aggregator.join(str(place), Standing(sizes))
        for number, anchor_N in enumerate(self._anchors[0]):
            self._aggregator.send("0", Anchor(number, 0, CODECS["fp32"].encode(anchor_N)))
        self._numbers = [0] * variant.fragments
        self._sent: dict[int, list[torch.Tensor]] = {}
        self._n_steps = [[0] * len(islands) for _ in range(variant.fragments)]

    def learned(self, step: int) -> None:
        """Who has taken this step."""
        for counts in self._n_steps:
            for place in range(len(counts)):
                counts[place] += not (place and step % self._variant.slower)

    def after_step(self, step: int, *, is_last: bool) -> None:
        """Send and take what is due after this step."""
        variant, count = self._variant, self._variant.fragments
        for fragment in range(count):
            offset = variant.every * fragment // count
            if fragment in self._sent and (step - offset - variant.late) % variant.every == 0:
                self._take(fragment)
            if (step + 1 - offset) % variant.every == 0 and fragment not in self._sent:
                self._send(fragment)
                if not variant.late:
                    self._take(fragment)
            if is_last:
                self._finish(fragment)

    def _send(self, fragment: int) -> None:
        self._sent[fragment] = []
        for place, cut in enumerate(self._cuts):
            progress_N = cut[fragment].read() - self._anchors[place][fragment]
            payload = self._codec.encode(progress_N)
            self._sent[fragment].append(self._codec.decode(payload, len(progress_N)))
            n_steps, self._n_steps[fragment][place] = self._n_steps[fragment][place], 0
            offer = Offer(str(place), fragment, self._numbers[fragment], n_steps, payload)
            assert self._aggregator.offer(offer) == self._numbers[fragment]

    def _take(self, fragment: int) -> None:
        sent, number = self._sent.pop(fragment), self._numbers[fragment]
        for place, cut in enumerate(self._cuts):
            update = self._aggregator.take(str(place), fragment, number, 0.0)
            assert update is not None
            update_N = self._codec.decode(update.payload, cut[fragment].size)
            self._anchors[place][fragment] += update_N
            cut[fragment].add(update_N - sent[place])
        self._numbers[fragment] += 1

    def _finish(self, fragment: int) -> None:
        if fragment in self._sent:
            self._take(fragment)
        self._send(fragment)
        self._take(fragment)
        part: Fragment = self._cuts[0][fragment]
        part.write(self._anchors[0][fragment])


if __name__ == "__main__":
    main()
