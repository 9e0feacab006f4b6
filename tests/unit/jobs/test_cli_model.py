"""`mulm model ...` on the command line: results, errors, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.cli_model import model
from jobs.exit_codes import EXIT_BY_CODE
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def folder(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and an installation with one model, `tiny@1`."""
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    store, tokenizer = Store(home.store), tiny_tokenizer()
    dataset = tiny_dataset(store, vocab_size=320, tokenizer_fingerprint=tokenizer.fingerprint)
    with Ledger(home.ledger) as ledger:
        ledger.publish("model", "tiny", tiny_stored_model(store, tokenizer).id)
        ledger.set_alias("model", "tiny", "live", 1)
        ledger.publish("dataset", "text", dataset.id)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        main(["model", *argv] if argv[0] != "eval" else list(argv))
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("verb", sorted(model.commands))
def test_every_verb_has_an_example_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out
    assert f"Example:  mulm model {verb}" in out


def test_out_and_in_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "export", "tiny", "--to", "hf", "--dtype", "bf16", "--out", "hf", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["format"] == "hf"
    code, out, err = run(capsys, "import", "hf", "--name", "again", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == "again@1"
    code, out, err = run(
        capsys, "export", "again", "--to", "gguf", "--quant", "q4_0", "--out", "m.gguf"
    )
    assert code == 0, err
    assert (folder / "m.gguf").is_file()
    assert "again@1 is in m.gguf" in out
    code, out, err = run(capsys, "eval", "again", "--dataset", "text", "--json")
    assert code == 0, err
    assert json.loads(out)["bits_per_byte"] > 0


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "tiny@live")
    assert code == 0
    for told in ("tiny@1 (live)", "n_layers=2", "model.safetensors", "parameters", "CC0-1.0"):
        assert told in out
    code, out, _ = run(capsys, "show", "tiny", "--json")
    assert json.loads(out)["aliases"] == ["live"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("show nobody", "not_found"),
        ("shwo tiny", "unknown_name"),
        ("export tiny --to hf", "config_invalid"),
        ("export tiny --to onnx --out x", "unknown_name"),
        ("export tiny --to hf --quant q8_0 --out x", "config_invalid"),
        ("export tiny --to gguf --quant q9 --out x", "unknown_name"),
        ("export nobody --to hf --out x", "not_found"),
        ("export tiny --to hf --out home", "conflict"),
        ("export tiny --to hf --out nope/deep/x", "not_found"),
        ("import home --name x", "not_found"),
        ("import nowhere --name x", "not_found"),
        ("plan --size BASE", "unknown_name"),
        ("plan --seq-len 99999999999", "config_invalid"),
        ("plan --seq-len many", "config_invalid"),
        ("import nowhere --name X!", "config_invalid"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], argv: str, code: str) -> None:
    status, out, err = run(capsys, *argv.split())
    assert status == EXIT_BY_CODE[code], err
    assert f"error [{code}]" in err
    assert "hint:" in err
    assert out == ""
    assert not (folder / "x").exists()
    assert not (folder / "nope").exists()


def test_an_alias_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "alias", "tiny@1", "lvie")
    code, out, err = run(capsys, "alias", "tiny", "lvie", "--remove")
    assert (code, out) == (0, "removed tiny@lvie\n"), err
    assert json.loads(run(capsys, "show", "tiny", "--json")[1])["aliases"] == ["live"]
    code, _, err = run(capsys, "alias", "tiny", "lvie", "--remove")
    assert (code, "no alias 'tiny@lvie'" in err) == (EXIT_BY_CODE["not_found"], True)


def test_an_alias_means_what_it_is_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "alias", "tiny@1", "best")
    assert (code, out) == (0, "tiny@best is tiny@1\n"), err
    code, out, err = run(capsys, "alias", "tiny@1", "best")
    assert (code, out) == (0, "tiny@best is tiny@1 already\n"), err
    code, out, err = run(capsys, "alias", "tiny", "live", "--json")
    assert json.loads(out)["before"] == "tiny@1"
    code, out, err = run(capsys, "show", "tiny@best", "--json")
    assert json.loads(out)["aliases"] == ["best", "live"]
    for wrong, exit_code in (
        (("tiny@7", "live"), EXIT_BY_CODE["not_found"]),
        (("tiny", "7"), EXIT_BY_CODE["config_invalid"]),
        (("tiny", "a b"), EXIT_BY_CODE["config_invalid"]),
    ):
        code, out, err = run(capsys, "alias", *wrong)
        assert code == exit_code, err
