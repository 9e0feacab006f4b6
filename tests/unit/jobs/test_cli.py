"""The command line without a cluster: help, results, errors and exit codes."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import cli
from jobs.progress import Progress
from tests.unit.jobs.command import run

RECIPE = """
name: tiny
sources: [{type: text, path: texts}]
tokenizer: {vocab_size: 320}
split: {validation_fraction: 0.2}
"""
CONFIG = """
name: small
dataset: tiny
preset: demo
model: {n_layers: 1, d_model: 32, n_heads: 2, n_kv_heads: 1, d_head: 16, d_ff: 64, max_seq_len: 64}
steps: 3
seq_len: 16
batch_tokens: 64
device: cpu
"""
VERBS = {
    "up", "down", "demo", "env", "cluster",
    "data", "tokenizer", "train", "eval", "model", "compress", "runs",
    "serve", "ps", "chat", "generate", "feedback", "join", "key", "leave", "usage",
    "doctor", "config", "backup", "restore", "gc", "completion",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        words = " ".join(f"word{(7 * number + k) % 41} and" for k in range(120))
        (texts / f"{number}.txt").write_text(f"Story {number}.\n\n{words}.\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_the_verbs_are_these() -> None:
    assert set(cli.commands) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out or "Commands:" in out


def test_a_dataset_that_was_removed_is_built_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = []
    for _ in range(2):
        code, out, err = run(capsys, "data", "build", "recipe.yaml", "--json")
        assert code == 0, err
        numbers.append(json.loads(out)["dataset"])
        code, _, err = run(capsys, "data", "rm", numbers[-1], "--yes")
        assert code == 0, err
    assert numbers == ["tiny@1", "tiny@2"], "a number is never given again"


def test_text_to_model_in_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "data", "build", "recipe.yaml", "--json")
    assert code == 0, err
    built = json.loads(out)
    assert built["dataset"] == "tiny@1"

    code, out, err = run(capsys, "train", "config.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == "small@1"

    code, out, err = run(capsys, "train", "config.yaml", "--json")
    assert "finished before" in err
    assert json.loads(out)["model"] == "small@1"

    code, out, err = run(capsys, "eval", "small", "--json")
    assert code == 0, err
    assert json.loads(out)["bits_per_byte"] > 0

    for to, *options in (("int4",), ("pruned", "--set", "keep=0.8")):
        code, out, err = run(capsys, "compress", "small", "--to", to, *options, "--json")
        assert code == 0, err
        assert json.loads(out)["model"] == f"small-{to}@1"
        code, out, err = run(capsys, "eval", f"small-{to}", "--json")
        assert code == 0, err
        assert json.loads(out)["bits_per_byte"] > 0

    code, out, _ = run(capsys, "model", "ls", "--json")
    refs = [row["ref"] for row in json.loads(out)]
    assert refs == ["small@1", "small-int4@1", "small-pruned@1"]


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["trian"], "unknown_name", "'train'"),
        (["train"], "config_invalid", "Missing argument"),
        (["train", "config.yaml", "--bogus"], "config_invalid", "--bogus"),
        (["train", "nowhere.yaml"], "not_found", "nowhere.yaml"),
        (["train", "config.yaml", "--set", "stesp=4"], "unknown_name", "'steps'"),
        (["train", "config.yaml", "--set", "steps=-4"], "config_invalid", "steps"),
        (["train", "config.yaml", "--set", "preset=dmo"], "unknown_name", "'demo'"),
        (["train", "config.yaml"], "not_found", "tiny"),
        (["data", "build", "nowhere.yaml"], "not_found", "nowhere.yaml"),
        (["data", "build", "recipe.yaml", "--set", "sources.0.path=x"], "config_invalid", ""),
        (["eval", "nobody"], "not_found", "nobody"),
        (["compress", "nobody", "--to", "int4"], "not_found", "nobody"),
        (["compress", "nobody", "--to", "itn4"], "unknown_name", "'int4'"),
        (["compress", "nobody", "--to", "int4", "--keep", "0.5"], "config_invalid", "pruned"),
        (["compress", "nobody", "--to", "pruned", "--set", "kep=1"], "unknown_name", "'keep'"),
        (["compress", "nobody"], "config_invalid", "--to"),
        (["serve", "nobody"], "not_running", "mulm up"),
        (["env"], "not_running", "mulm up"),
        (["chat", "hello"], "not_running", "mulm up"),
    ],
)
def test_mistakes_end_with_one_line_a_hint_and_a_code(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: str, told: str
) -> None:
    from jobs.exit_codes import EXIT_BY_CODE

    status, out, err = run(capsys, *argv)
    assert status == EXIT_BY_CODE[code], err
    assert f"error [{code}]" in err
    assert told in err
    assert out == ""
    assert "Traceback" not in err


def test_without_a_verb_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["data"]):
        code, out, err = run(capsys, *argv)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: mulm")
        assert all(f"  {verb}" in out for verb in ("show", "ls") if argv)


def test_ctrl_c_in_process_writes_a_checkpoint_and_the_same_command_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "data", "build", "recipe.yaml")
    config = ["train", "config.yaml", "--set", "steps=40", "--set", "log_every=1"]
    seen = Progress.event

    def interrupt(progress: Progress, kind: str, data: Mapping[str, Any]) -> None:
        seen(progress, kind, data)
        if kind == "metric" and data.get("step") == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "event", interrupt)
        code, _, err = run(capsys, *config)
    assert code == 130, err
    assert "Traceback" not in err
    code, out, err = run(capsys, *config, "--json")
    assert code == 0, err
    assert "goes on from step" in err
    assert json.loads(out)["steps"] == 40


def test_down_when_nothing_is_up_is_harmless(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "down", "--json")
    assert (code, json.loads(out)) == (0, {"was_up": False})
