"""Which machines can work together."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from actors.versions import Versions, misfit, parse

HEAD = Versions("3.11.7", "2.60.0", "2.13.0", "0.1.0", "0123456789ab")


def test_equal_machines_fit_and_patches_of_python_are_equal_enough() -> None:
    assert misfit(HEAD, HEAD) is None
    assert misfit(HEAD, replace(HEAD, python="3.11.2")) is None


@pytest.mark.parametrize(
    ("change", "told", "fix"),
    [
        ({"python": "3.12.1"}, "Python 3.11.7, this machine 3.12.1", "PYTHON=python3.11"),
        ({"ray": "2.59.0"}, "ray 2.60.0, this machine 2.59.0", "make setup"),
        ({"torch": "2.12.0"}, "torch 2.13.0", "make setup"),
        ({"mulm": "0.2.0"}, "µLM 0.1.0", "same commit"),
        ({"code": "ffffffffffff"}, "ffffffffffff", "same commit"),
    ],
)
def test_what_does_not_fit_is_told_with_its_fix(
    change: dict[str, str], told: str, fix: str
) -> None:
    problem = misfit(HEAD, replace(HEAD, **change))
    assert problem is not None
    assert told in problem[0]
    assert fix in problem[1]


def test_this_machine_can_say_what_it_runs() -> None:
    own = Versions.of_this_machine()
    assert "+" not in own.torch
    assert len(own.code) == 12
    assert misfit(own, own) is None


def test_an_answer_is_read() -> None:
    import json

    assert parse(json.dumps(asdict(HEAD))) == HEAD
