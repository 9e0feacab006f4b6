"""Whether a run is compiled: asked for, possible, and worth it."""

from __future__ import annotations

from typing import Any

import pytest

from mulm.errors import DeviceError
from mulm.model import compiled
from mulm.model.presets import preset
from mulm.testing import settled_optimizer
from mulm.train.compiling import choose_compiled
from mulm.train.settled import SettledConfig

DEMO = preset("demo", 4096)


def make_config(**changes: Any) -> SettledConfig:
    sizes = {"steps": 100_000, "batch_tokens": 8192, "seq_len": 256, "schedule": {"warmup": 0.0}}
    values = {"name": "a", "dataset": "b", "optimizer": settled_optimizer().model_dump(), **sizes}
    return SettledConfig.model_validate(values | changes)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)


@pytest.fixture
def machine_with_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.usefixtures("machine_with_compiler")
def test_long_runs_are_compiled_and_short_ones_are_not() -> None:
    assert choose_compiled(make_config(), DEMO, "cpu")[0]
    assert choose_compiled(make_config(steps=100), DEMO, "cpu") == (
        False, "the run is too short to pay for compiling",
    )  # fmt: skip


@pytest.mark.usefixtures("machine_with_compiler")
def test_workers_share_the_work_that_has_to_pay() -> None:
    steps = 500
    assert choose_compiled(make_config(steps=steps), DEMO, "cpu")[0]
    assert not choose_compiled(make_config(steps=steps, workers=8), DEMO, "cpu")[0]


@pytest.mark.usefixtures("machine_with_compiler")
def test_what_is_asked_for_is_done() -> None:
    assert choose_compiled(make_config(steps=1, compile=True), DEMO, "cpu")[0]
    assert not choose_compiled(make_config(compile=False), DEMO, "cpu")[0]


@pytest.mark.usefixtures("machine_with_compiler")
def test_rows_of_every_length_are_not_compiled() -> None:
    config = make_config(init_from="c", preference={})
    assert choose_compiled(config, DEMO, "cpu") == (False, "its rows have every length")


@pytest.mark.usefixtures("bare_machine")
def test_without_a_compiler_it_goes_on_uncompiled_and_says_so() -> None:
    assert choose_compiled(make_config(), DEMO, "cpu") == (False, "no C++ compiler is here")


@pytest.mark.usefixtures("bare_machine")
def test_without_a_compiler_what_is_asked_for_is_refused() -> None:
    with pytest.raises(DeviceError, match="no C\\+\\+ compiler"):
        choose_compiled(make_config(compile=True), DEMO, "cpu")
