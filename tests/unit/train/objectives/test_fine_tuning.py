"""Fine-tuning on conversations: only what the assistant says counts, exactly, however it lies.

The plain computation reads each conversation by itself with the full logits.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mulm.chat import Message, render_training
from mulm.data.loader import IGNORED_TARGET
from mulm.data.tokenizer import Tokenizer
from mulm.manifest import Manifest
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model
from mulm.store import Store
from mulm.testing import tiny_stored_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.sync.single import SingleSync

SEQ_LEN = 127
VALUES: dict[str, Any] = {
    "name": "tuned", "dataset": "chats", "init_from": "base", "steps": 4, "seq_len": SEQ_LEN,
    "batch_tokens": 5 * SEQ_LEN, "precision": "fp32", "documents": "apart",
}  # fmt: skip
Conversation = tuple[list[int], list[int]]


@pytest.fixture
def context(tmp_path: Path, build_rows: Any, rows: Any, tokenizer_of: Any) -> LocalContext:
    store = Store(tmp_path / "store")
    dataset: Manifest = build_rows(store, rows.chats)
    base = tiny_stored_model(store, tokenizer_of(store, dataset), max_seq_len=1024)
    return LocalContext(
        store, dataset, tmp_path / "run", torch.device("cpu"), lambda *_: None, lambda: False,
        models={"init_from": base},
    )  # fmt: skip


@pytest.fixture
def conversations(context: LocalContext, rows: Any, tokenizer_of: Any) -> list[Conversation]:
    """As they are encoded: a document's beginning, then the turns."""
    tokenizer: Tokenizer = tokenizer_of(context.store, context.dataset)
    found = []
    for row in rows.chats:
        messages = [Message.model_validate(turn) for turn in row["messages"]]
        ids, learned = render_training(messages, tokenizer)
        found.append(([tokenizer.end_of_text_id, *ids], [0, *learned]))
    return found


def a_config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(VALUES | changes)


def plain_nats(model: MicroLM, conversation: Conversation) -> Tensor:
    ids_T, learned_T = (torch.tensor(column) for column in conversation)
    targets_T = ids_T[1:].masked_fill(learned_T[1:] == 0, IGNORED_TARGET)
    logits_TV = model.logits(model(ids_T[None, :-1])[0])
    return functional.cross_entropy(logits_TV, targets_T, reduction="sum")


def trained(context: LocalContext) -> MicroLM:
    model = load_model(context.store, context.models["init_from"])
    return model.requires_grad_(True).train()


def packed(context: LocalContext, rows: Sequence[Sequence[Conversation]]) -> LocalContext:
    """The context of a packed version with these conversations in its rows."""
    width, ids, mask = SEQ_LEN + 1, array("H"), 0
    for row in rows:
        row_ids, row_mask = ([x for part in row for x in part[place]] for place in (0, 1))
        row_ids += [row[0][0][0]] * (width - len(row_ids))
        mask |= sum(bit << (len(ids) + i) for i, bit in enumerate(row_mask))
        ids.extend(row_ids)
    store, n = context.store, len(ids)
    blobs = [
        blob
        for side in ("train", "validation")
        for blob in (
            store.put(f"{side}-00000.bin", ids.tobytes(), n),
            store.put(f"{side}-00000.mask", mask.to_bytes((n + 7) // 8, "little")),
        )
    ]
    dataset = context.dataset.model_copy(
        update={
            "config": {"pack": {"mode": "best_fit", "seq_len": SEQ_LEN}},
            "blobs": (*blobs, context.dataset.blob("tokenizer.json")),
        }
    )
    return replace(context, dataset=dataset)


def in_rows(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    """As many as fit into each row, so that rows have uneven numbers of learned tokens."""
    rows: list[list[Conversation]] = [[]]
    for conversation in conversations:
        used = sum(len(ids) for ids, _ in rows[-1])
        if used + len(conversation[0]) > SEQ_LEN + 1:
            rows.append([])
        rows[-1].append(conversation)
    return rows


def sums(
    config: TrainConfig, context: LocalContext, cuts: Sequence[int]
) -> tuple[float, float, list[Tensor]]:
    """Loss, count and gradients of step 0, by workers that have the rows between the cuts."""
    model, objective = trained(context), Pretraining(config, context)
    total, count = 0.0, 0.0
    for start, stop in pairwise(cuts):
        for batch in objective.micro_batches(0, start, stop):
            part = objective.loss(model, batch, torch.float32)
            part.total.backward()  # type: ignore[no-untyped-call]
            total, count = total + float(part.total.detach()), count + part.count
    return total, count, [p.grad for p in model.parameters() if p.grad is not None]


def test_packed_equals_each_conversation_by_itself(
    context: LocalContext, conversations: list[Conversation]
) -> None:
    rows = in_rows(conversations[:24])
    learned = [sum(sum(mask) for _, mask in row) for row in rows]
    assert len(set(learned)) > 1, "uneven masks"
    config = a_config(batch_tokens=len(rows) * SEQ_LEN)
    total, count, gradients = sums(config, packed(context, rows), [0, len(rows)])

    model = trained(context)
    exact = torch.stack([plain_nats(model, c) for row in rows for c in row]).sum()
    exact.backward()  # type: ignore[no-untyped-call]
    assert count == sum(learned)
    assert total == pytest.approx(float(exact.detach()), rel=1e-5)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("documents", ["apart", "joined"])
@pytest.mark.parametrize(
    ("rows_at_once", "cuts"), [(1, [0, 5]), (3, [0, 5]), (5, [0, 2, 5]), (2, [0, 1, 3, 5])]
)
def test_accumulated_and_shared_out_equals_whole(
    context: LocalContext, documents: str, rows_at_once: int, cuts: list[int]
) -> None:
    whole = sums(a_config(documents=documents), context, [0, 5])
    config = a_config(documents=documents, micro_batch_rows=rows_at_once)
    total, count, gradients = sums(config, context, cuts)
    assert 0 < whole[1] < 5 * SEQ_LEN, "some targets are masked"
    assert count == whole[1]
    assert total == pytest.approx(whole[0], rel=1e-5)
    for ours, theirs in zip(gradients, whole[2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_validation_is_bits_per_byte_of_what_the_assistant_says(
    context: LocalContext, conversations: list[Conversation]
) -> None:
    """With the whole held-out text in one row, documents apart, nothing is cut."""
    dataset = context.dataset
    n_tokens = int(dataset.counts["validation_tokens"])
    config = a_config(seq_len=n_tokens, batch_tokens=n_tokens)
    with torch.no_grad():
        model = load_model(context.store, context.models["init_from"])
        found = Pretraining(config, context).validate(model, torch.float32, SingleSync())
        spoken = context.store.read(dataset.blob("validation.txt"))
        content = context.store.read(dataset.blob("validation-00000.bin"))
        held_out = array("H", content).tolist()
        own = [c for c in conversations if is_within(c[0], held_out)]
        assert sum(len(ids) for ids, _ in own) == n_tokens
        nats = sum(float(plain_nats(model, conversation)) for conversation in own)
    assert dataset.counts["validation_bytes"] == len(spoken) > 0
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(spoken), rel=1e-5)


def is_within(ids: list[int], text: list[int]) -> bool:
    return any(text[i : i + len(ids)] == ids for i in range(len(text)))
