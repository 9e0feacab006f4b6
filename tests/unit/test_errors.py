from __future__ import annotations

import pickle
import re

import pytest

from jobs.exit_codes import EXIT_BY_CODE, exit_code
from mulm.errors import ConfigError, MulmError, error_classes, nearest


@pytest.mark.parametrize("cls", error_classes())
def test_survives_pickling(cls: type[MulmError]) -> None:
    error = cls("what 'x'", hint="do y", number=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (again.message, again.hint, again.details) == ("what 'x'", "do y", {"number": 3})


def test_codes_are_distinct_and_frozen() -> None:
    codes = [cls.code for cls in error_classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
    assert sorted(codes) == sorted(EXIT_BY_CODE)


def test_exit_codes_are_distinct_and_fit_a_byte() -> None:
    numbers = list(EXIT_BY_CODE.values())
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= 130 for number in numbers)
    assert EXIT_BY_CODE["config_invalid"] == 2
    assert EXIT_BY_CODE["stopped"] == 130


def test_exit_code_of_strangers_is_one() -> None:
    assert exit_code(ValueError("x")) == 1
    assert exit_code(ConfigError("x")) == 2


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("mirco", ["micro", "mini"], "did you mean 'micro'?"),
        ("MICRO", ["micro", "mini"], "did you mean 'micro'?"),
        ("llama", ["Llama", "Qwen"], "did you mean 'Llama'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [], "there are none yet"),
        ("zzz", [*"abcdefgh"], "known: a, b, c, d, e, f, g, h"),
        ("zzz", [*"abcdefghijk"], "known: a, b, c, d, e, f, g, h and 3 more"),
    ],
)
def test_nearest(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint
