from __future__ import annotations

from typing import Any

import pytest

from mulm.errors import ConfigError, NotFoundError
from mulm.records import Run
from mulm.runs.find import find_run


def run(run_id: str, kind: str = "train", name: str = "demo", **result: Any) -> Run:
    return Run(run_id, kind, {"name": name}, "running", 0.0, 0.0, result or None)


RUNS = [
    run("run_3f2a", name="second"),
    run("run_3f99", model="demo@2"),
    run("run_81bc", model="demo@1"),
    run("run_d000", kind="prepare", name="sample"),
    run("run_e000", name="run_e"),
    run("run_ee00", name="other"),
]


@pytest.mark.parametrize(
    ("text", "run_id"),
    [
        ("run_81bc", "run_81bc"),
        ("run_81", "run_81bc"),
        ("81", "run_81bc"),
        ("demo", "run_3f99"),
        ("demo@1", "run_81bc"),
        ("second", "run_3f2a"),
        ("run_d", "run_d000"),
        ("run_e", "run_e000"),  # a name is more than the beginning of an id
    ],
)
def test_a_text_means_one_run(text: str, run_id: str) -> None:
    assert find_run(text, RUNS).id == run_id


def test_a_beginning_of_several_names_them() -> None:
    with pytest.raises(ConfigError, match="2 runs begin with '3f'") as caught:
        find_run("3f", RUNS)
    assert caught.value.hint == "write more: run_3f2a, run_3f99"
    many = [run(f"run_a{n}", name=f"n{n}") for n in range(9)]
    with pytest.raises(ConfigError) as caught:
        find_run("a", many)
    assert caught.value.hint.endswith("and 4 more")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("deno", "did you mean 'demo'? `mulm runs ls` lists them"),
        ("run_81bd", "did you mean 'run_81bc'? `mulm runs ls` lists them"),
        (
            "sample",
            "only trainings are found by name; `mulm runs ls` lists them, with the id of 'sample'",
        ),
        ("", "`mulm runs ls` lists them"),
    ],
)
def test_an_unknown_one_names_the_nearest(text: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_run(text, RUNS)
    assert caught.value.hint == hint
    with pytest.raises(NotFoundError) as caught:
        find_run("demo", [])
    assert caught.value.hint == "there are none yet"
