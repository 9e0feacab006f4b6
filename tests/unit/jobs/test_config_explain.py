"""`mulm config explain`: every value, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.config_explain import SCHEMAS, explain_config, explain_settings, unknown_variables
from jobs.config_explain_lines import lines_of_values
from mulm.config import load_config
from mulm.errors import ConfigError, UnknownNameError
from mulm.settings import Settings, variable_of

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))


def by_key(path: Path, *overrides: str, kind: str | None = None) -> dict[str, Any]:
    return {one.key: one for one in explain_config(path, overrides, kind)[1]}


def leaves(value: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of what is written in a file, lists of plain values counting as one."""
    if isinstance(value, dict) and value:
        return {path for key, one in value.items() for path in leaves(one, (*at, key))}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return {path for n, one in enumerate(value) for path in leaves(one, (*at, str(n)))}
    return {at}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_all_that_an_example_says_is_told_with_its_line(path: Path) -> None:
    text = path.read_text("utf-8")
    found = by_key(path)
    told = {one.key: one for one in found.values() if one.origin == "file"}
    written = {".".join(at) for at in leaves(yaml.safe_load(text))}
    sections = {key for key in written if any(one.startswith(f"{key}.") for one in found)}
    assert set(told) == written - sections  # an empty section has nothing but defaults
    for one in told.values():
        line = text.splitlines()[int(one.where.rpartition(":")[2]) - 1]
        assert one.key.rpartition(".")[2] in line


def test_values_are_those_that_the_work_runs_with(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: a\ndataset: b\noptimizer:\n  kind: adamw\n")
    found = by_key(path, "steps=7", "steps=9", "optimizer.max_grad_norm=2", "model={d_model: 32}")
    config = load_config(SCHEMAS["train"], path, ["steps=9"])
    assert found["steps"].value == config.steps == 9
    assert (found["steps"].origin, found["steps"].where) == ("set", "--set steps=9")
    assert (found["optimizer.kind"].value, found["optimizer.kind"].where) == ("adamw", f"{path}:4")
    assert found["optimizer.max_grad_norm"].origin == "set"
    assert (found["model.d_model"].value, found["model.d_model"].origin) == (32, "set")
    assert (found["seed"].value, found["seed"].origin, found["seed"].where) == (0, "default", "")


def test_a_whole_section_that_is_set_comes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: a\ndataset: b\noptimizer: {kind: adamw}\n")
    found = by_key(path, "optimizer={kind: muon}")
    assert (found["optimizer.kind"].value, found["optimizer.kind"].origin) == ("muon", "set")


def test_merged_keys_of_yaml_have_the_line_on_which_they_stand() -> None:
    text = "a: &base\n  x: 1\n  y: 2\nb:\n  <<: *base\n  y: 3\nc: [{x: 1}, {x: 2}]\n"
    lines = lines_of_values(text)
    assert (lines["b", "x"], lines["b", "y"], lines["c", "1", "x"]) == (2, 6, 7)
    assert lines_of_values('{"a": {"b": 1}}') == {("a",): 1, ("a", "b"): 1}
    assert lines_of_values("") == {}


def test_the_kind_of_a_config_is_told_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"model": "demo", "to": "int4"}')
    assert explain_config(path, ())[0] == "compress"
    path.write_text('{"model": "demo"}')
    with pytest.raises(ConfigError, match="may be a config for") as caught:
        explain_config(path, ())
    assert "--kind" in caught.value.hint
    assert explain_config(path, (), "serve")[0] == "serve"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="may be a config for"):
        explain_config(path, ())


def test_a_wrong_config_is_refused_as_by_the_work(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: a\ndataset: b\nstesp: 4\n")
    with pytest.raises(UnknownNameError, match="stesp"):
        explain_config(path, ())


def test_settings_tell_their_variable_and_no_secret() -> None:
    env = {"MULM_HTTP_PORT": "8001", "MULM_API_KEY": "mulm_sk_secret", "HF_TOKEN": "hf_secret"}
    env |= {"MULM_STORE_URL": "s3://id:secret@bucket/folder"}
    found = {one.key: one for one in explain_settings(env)}
    port = found["MULM_HTTP_PORT"]
    assert (port.value, port.origin, port.where) == (8001, "environment", "MULM_HTTP_PORT")
    assert (found["MULM_DASHBOARD_PORT"].value, found["MULM_DASHBOARD_PORT"].origin) == (
        8265,
        "default",
    )
    assert "secret" not in str(found)
    assert found["MULM_API_KEY"].value == "(set)"
    with pytest.raises(ConfigError, match="MULM_HTTP_PORT"):
        explain_settings({"MULM_HTTP_PORT": "many"})


def test_variables_that_nothing_reads_are_named() -> None:
    env = {"MULM_HTTP_PROT": "1", "MULM_CLUSTER": "x", "MULM_HOME": "/x", "PATH": ""}
    assert unknown_variables(env) == {"MULM_HTTP_PROT": "did you mean 'MULM_HTTP_PORT'?"}


def test_the_command_prints_both_tables(mulm, monkeypatch: pytest.MonkeyPatch) -> None:
    (mulm.folder / "c.yaml").write_text("name: a\ndataset: b\n")
    monkeypatch.setenv("MULM_HTTP_PROT", "1")
    code, out, err = mulm("config", "explain", "c.yaml", "--set", "steps=5")
    assert code == 0
    assert "train config c.yaml" in out
    assert "c.yaml:2" in out
    assert "--set steps=5" in out
    assert str(mulm.home.root) in out
    assert "MULM_HTTP_PROT" in err
    assert mulm("config", "explain", "-q")[2] == ""
    told = mulm.json("config", "explain", "c.yaml")
    assert {"key": "dataset", "value": "b", "origin": "file", "where": "c.yaml:2"} in told["config"]
    assert mulm("config", "explain", "--set", "a=b")[0] == 2


def test_every_setting_is_on_a_page() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text("utf-8") for page in pages)
    assert [name for name in map(variable_of, Settings.model_fields) if name not in text] == []
