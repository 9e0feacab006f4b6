from __future__ import annotations

import subprocess
import sys

from serve_app.prefix_key import home_of, marks_of

BEGINNING = tuple(range(100))


def marks(ids, model_id="m", adapter=None):
    return marks_of(model_id, adapter, ids)


def test_prompts_have_in_common_the_marks_of_the_pieces_that_are_alike():
    assert len(marks(BEGINNING)) == 6, "of whole pieces"
    assert marks((*BEGINNING, 1, 2))[:6] == marks((*BEGINNING, 3))[:6] == marks(BEGINNING)
    changed = marks((*BEGINNING[:50], 7, *BEGINNING[51:]))
    assert changed[:3] == marks(BEGINNING)[:3]
    assert not set(changed[3:]) & set(marks(BEGINNING))
    assert marks(range(15)) == []


def test_what_one_model_has_read_is_of_no_use_to_another():
    found = [marks(BEGINNING), marks(BEGINNING, "n"), marks(BEGINNING, adapter="x")]
    assert len({mark for each in found for mark in each}) == 18


def test_all_processes_agree():
    code = "from serve_app.prefix_key import marks_of; print(marks_of('m', None, range(100)))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert told == {f"{marks(BEGINNING)}\n"}


def test_an_engine_more_moves_few_homes():
    found = [marks(range(n, n + 60))[-1] for n in range(300)]
    names = ["a", "b", "c"]
    before = {mark: home_of(mark, names) for mark in found}
    assert all(60 < list(before.values()).count(name) < 140 for name in names)
    after = {mark: home_of(mark, [*names, "d"]) for mark in found}
    moved = {after[mark] for mark in found if after[mark] != before[mark]}
    assert moved == {"d"}
