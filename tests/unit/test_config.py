from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from mulm.config import Frozen, canonical_json, load_config, parse_config
from mulm.errors import ConfigError, NotFoundError, UnknownNameError
from mulm.settings import Settings

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines of aliases that stand for 9^9 values."""


class Inner(Frozen):
    vocab_size: Annotated[int, Field(ge=1)] = 4096


class Outer(Frozen):
    name: str
    kind: Literal["plain", "fancy"] = "plain"
    steps: int = 10
    rate: float = 1.0
    tokenizer: Inner = Inner()
    sources: list[Inner] = []
    maybe: Inner | None = None


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_reads_and_overrides(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_text('{"name": "demo", "steps": 5}')
    config = load_config(Outer, path, ["steps=7", "tokenizer.vocab_size=64"])
    assert (config.name, config.steps, config.tokenizer.vocab_size) == ("demo", 7, 64)


@pytest.mark.parametrize(
    ("values", "where", "hint"),
    [
        ({"name": "x", "stpes": 3}, "'stpes'", "did you mean 'steps'?"),
        ({"name": "x", "tokenizer": {"vocab": 3}}, "'tokenizer.vocab'", "'vocab_size'"),
        ({"name": "x", "sources": [{"vocab_sizes": 3}]}, "'sources.0.vocab_sizes'", "'vocab_size'"),
        ({"name": "x", "maybe": {"vocab_sise": 3}}, "'maybe.vocab_sise'", "'vocab_size'"),
    ],
)
def test_an_unknown_key_names_the_nearest(values: dict[str, object], where: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_config(Outer, values)
    assert where in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({}, "--set name=VALUE"),
        ({"name": 3}, "in quotes"),
        ({"name": "x", "steps": "many"}, "the default is 10"),
        ({"name": "x", "kind": "Fancy"}, "did you mean 'fancy'?"),
        ({"name": "x", "kind": 7}, "known: fancy, plain"),
        ({"name": "x", "tokenizer": {"vocab_size": 0}}, "the default is 4096"),
        ({"name": "x", "sources": [{"vocab_size": 0}]}, "the default is 4096"),
        ({"name": "x", "maybe": {"vocab_size": 0}}, "the default is 4096"),
        ({"name": "x", "tokenizer": 3}, "docs/configuration.md"),
    ],
)
def test_a_bad_value_comes_with_a_hint(values: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Outer, values)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("c.yaml", b"a: [", "write `key: value` lines"),
        ("c.json", b"{", "check that place"),
        ("c.json", b"\xff", "UTF-8"),
        ("c.json", b"[]", "write `key: value` lines"),
    ],
)
def test_a_bad_file_comes_with_a_hint(tmp_path: Path, name: str, text: bytes, hint: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, tmp_path / name)
    assert hint in caught.value.hint


def test_an_override_below_a_value_comes_with_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, {"name": "x", "steps": 3}, ["steps.warmup=4"])
    assert caught.value.hint == "write --set steps=VALUE"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "name: is required"),
        ({"name": "x", "steps": "many"}, "(given: 'many')"),
        ({"name": "x", "tokenizer": {"vocab_size": 0}}, "tokenizer.vocab_size"),
    ],
)
def test_a_bad_value_is_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Outer, values)
    assert text in caught.value.message


def test_a_file_for_something_else_is_named_as_such() -> None:
    with pytest.raises(ConfigError, match="name: is required") as caught:
        parse_config(Outer, {"recipe": 1})
    assert "'recipe' is unknown here" in caught.value.hint


def test_a_value_is_not_said_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Settings, {"http_port": 9000, "dashboard_port": 9000})
    assert caught.value.message.startswith("MULM_HTTP_PORT and")
    assert "given" not in caught.value.message


@pytest.mark.parametrize("override", ["steps", "=3", "name.deeper=1"])
def test_a_bad_override(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x")
    with pytest.raises(ConfigError):
        load_config(Outer, path, [override])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("c.yaml", b"a: [", "not valid YAML"),
        ("c.json", b"{", "not valid JSON"),
        ("c.yaml", b"- 1", "holds no mapping"),
        ("c.yaml", b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_bad_file(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert text in caught.value.message
    assert "\n" not in caught.value.message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert caught.value.message.endswith("c.yaml': Is a directory")


@pytest.mark.parametrize("text", ["Infinity", "NaN", "-Infinity", "1e999"])
def test_numbers_are_finite(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(f'{{"name": "x", "rate": {text}}}')
    with pytest.raises(ConfigError, match="rate: must be a finite number"):
        load_config(Outer, path)
    with pytest.raises(ConfigError, match="rate"):
        load_config(Outer, None, ["name=x", f"rate={text}"])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_config(Outer, tmp_path / "no.yaml")


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": "µ"}) == '{"a":"µ","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "is nested too deeply"),
        ("name: x\nsteps: " + "9" * 5000, "4300 digits"),
        ("name: x\nsteps: 2001-14-55", "month must be in 1..12"),
        ("name: x\nsteps: 010", "010 is no plain number in line 2, column 8"),
        ("name: x\nsteps: 1:30", "1:30 is no plain number"),
        (LAUGHS, "holds more than 100,000 values"),
        ("name: x\nsteps: &again [*again]", "holds more than 100,000 values"),
    ],
)
def test_yaml_that_python_stumbles_over_is_a_mistake_of_the_file(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(Outer, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is not valid JSON"),
        ('{"name": "x", "steps": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('{"name": "x", "name": "y"}', "the key 'name' stands twice"),
    ],
)
def test_json_that_python_stumbles_over_is_a_mistake_of_the_file(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(Outer, path)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 50_000])
def test_an_override_without_end_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, {"name": "x"}, [f"steps={text}"])
    assert len(caught.value.message) < 250


def test_words_that_yaml_takes_for_something_else_are_told_to_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: no\n")
    with pytest.raises(ConfigError, match="given: False") as caught:
        load_config(Outer, path)
    assert "in quotes" in caught.value.hint


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ntokenizer:\n  vocab_size: 8\n  vocab_size: 9\n")
    with pytest.raises(ConfigError, match="'vocab_size' stands twice in line 4, column 3"):
        load_config(Outer, path)


def test_lists_may_be_written_as_yaml_has_them() -> None:
    config = load_config(Outer, {"name": "x"}, ["sources=[{vocab_size: 5}]", "kind=fancy"])
    assert (config.sources[0].vocab_size, config.kind) == (5, "fancy")


def test_a_mistyped_key_that_is_required_is_named() -> None:
    with pytest.raises(ConfigError, match="name: is required") as caught:
        parse_config(Outer, {"nmae": "x"})
    assert caught.value.hint == "did you mean 'name' where it says 'nmae'?"


def test_aliases_in_a_setting_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x")
    with pytest.raises(ConfigError, match="holds more than 100,000 values"):
        load_config(Outer, path, ["steps=[&again [*again]]"])
