"""What is said of islands' losses can be measured again: each row has its variant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.sync_loss import OUTER, Variant, variants
from mulm.train.sync.outer_choice import BY_ROUNDS
from mulm.train.sync.worth import BY_STEPS

PAGE = Path("docs/synchronisation.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"benchmarks\.sync_loss input\.txt --out FILE --steps 800 --only ([a-z -]+)`")
TABLE = PAGE.split("## What islands learn")[1].split("`python -m")[0]
SLOWER = {"twice": 2, "four times": 4, "eight times": 8}


def variant_of(row: str) -> Variant:
    """The one that a row of the table is."""
    if (pair := re.fullmatch(r"two islands, H (\d+)", row)) is not None:
        return Variant("streaming", 2, int(pair[1]), fragments=4, late=2)
    if (pair := re.fullmatch(r"H (\d+), one (.*) as slow", row)) is not None:
        slower = SLOWER[pair[2]]
        return Variant("streaming", 2, int(pair[1]), fragments=4, late=2, slower=slower)
    return {
        "in step": Variant("ddp"),
        "alone, half of each batch": Variant("alone", -2),
        "alone, whole batches, half of the steps": Variant("alone-long-batch", -1),
    }[row]


def test_every_row_is_run_by_the_command_that_is_printed() -> None:
    rows = re.findall(r"^\| ([a-zH][^|]*[a-z0-9]) \| \d", TABLE, re.MULTILINE)
    assert len(rows) == 11
    (names,) = [found.split() for found in COMMAND.findall(PAGE) if "streaming" in found]
    run = [variant for variant in variants() if variant.name in names]
    for row in rows:
        assert variant_of(row) in run, row


def test_worths_are_those_of_the_table() -> None:
    for steps, worth in BY_STEPS:
        (told,) = re.findall(rf"\| two islands, H {steps:.0f} \| [\d.]+ \| 2 \| ([\d.]+) \|", TABLE)
        assert worth == pytest.approx(float(told) / 2, abs=0.001)


def test_so_are_outer_steps() -> None:
    found = re.findall(r"^\| 5 \| (\d+) \| ([\d.]+), ([\d.]+) \| ([\d.]+), ([\d.]+) \|", PAGE, re.M)
    assert len(found) == len(BY_ROUNDS)
    for row, (rounds, *nats) in zip(BY_ROUNDS, found, strict=True):
        first, second, third, fourth = map(float, nats)
        assert (5, row.n_rounds) in OUTER
        assert row.n_rounds == int(rounds)
        assert row.average == pytest.approx((first + second) / 2, abs=0.001)
        assert row.nesterov == pytest.approx((third + fourth) / 2, abs=0.001)
