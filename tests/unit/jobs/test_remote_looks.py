"""What `mulm data`, `tokenizer`, `runs compare` and `serve` say of a server elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.cli import cli
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.testing import tiny_dataset

TEXTS = ["It was a dark night.", "It was a dark night.", "A bright day, é ü 日本語, came after it."]


@pytest.fixture
def there(server: Any, tmp_path: Path) -> Any:
    """A server with two versions of a dataset and its tokenizer."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in (1, 2):
        rows = [{"text": f"{text} {'And so on it went. ' * 20 * number}"} for text in TEXTS]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(lines)
        recipe = Recipe.model_validate({
            "name": "made", "sources": [{"path": str(folder)}], "tokenizer": {"vocab_size": 300},
        })  # fmt: skip
        built = build(recipe, server.store)
        server.facts.publish("dataset", "made", built.dataset.id)
        server.facts.publish("tokenizer", "made", built.tokenizer.id)
    return server


def said(*argv: str) -> Any:
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, (argv, done.output, done.exception)
    return done.stdout


LOOKS = [
    ["data", "preview", "made", "-n", "2"],
    ["data", "preview", "made@1", "-n", "2", "--tokens", "--mask", "--seed", "4", "--chars", "60"],
    ["data", "stats", "made@1"],
    ["data", "rejects", "made@2", "-n", "2"],
    ["data", "rejects", "made@2", "--reason", "duplicate", "-n", "1"],
    ["data", "diff", "made@1", "made@2"],
    ["data", "lineage", "made@2"],
    ["tokenizer", "show", "made"],
    ["tokenizer", "show", "made@1"],
    ["tokenizer", "encode", "made", "A dark night, é 日 bytes:"],
]


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("argv", LOOKS, ids=" ".join)
def test_a_look_says_there_what_it_says_here(
    there: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str], form: list[str]
) -> None:
    monkeypatch.setenv("MULM_HOME", str(there.home.root))
    monkeypatch.delenv("MULM_URL", raising=False)
    here = said(*argv, *form)
    monkeypatch.setenv("MULM_HOME", str(tmp_path / "empty"))
    assert said(*argv, *form, "--url", there.url, "--key", there.key) == here


def test_a_page_of_statistics_is_written_here(there: Any, at_server: Any) -> None:
    assert at_server("data", "stats", "made", "--html", "made.html")[0] == 0
    assert "made@2" in (at_server.folder / "made.html").read_text()


def test_what_is_not_there_or_too_much_is_said(there: Any, at_server: Any) -> None:
    assert at_server("data", "stats", "nobody")[0] == 3
    assert at_server("data", "preview", "a b")[0] == 2
    code, _, err = at_server("data", "preview", "made", "-n", "101")
    assert (code, "-n 100" in err) == (2, True)
    code, _, err = at_server("data", "rejects", "made", "--reason", "duplicat")
    assert (code, "'duplicate'" in err) == (18, True)
    assert at_server("tokenizer", "encode", "nobody", "x")[0] == 3
    assert at_server("tokenizer", "show", "nobody")[0] == 3
    assert at_server("tokenizer", "show", "a b")[0] == 2


def test_runs_are_compared_there(there: Any, at_server: Any) -> None:
    for number in (1, 2):
        run_id = f"run_{number:012x}"
        there.facts.create_run(run_id, "train", {"name": f"m{number}", "seed": number})
        rows = [("metric", {"step": step, "loss": 3.0 / step / number}) for step in (1, 2, 3)]
        there.facts.append_events(run_id, rows)
        there.facts.set_phase(run_id, "succeeded", result={"model": f"m{number}@1"})
    told = at_server.json("runs", "compare", "m1", "m2")
    assert [one["run"] for one in told["runs"]] == ["run_000000000002", "run_000000000001"]


def test_a_model_is_served_there_and_no_more(
    there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, Any]] = []

    def put(_self: Any, path: str, body: Any, _headers: Any = None) -> Any:
        told.append(("PUT", path, body["model"]))
        return {"status": "starting", "message": "no engine yet"}

    def get(_self: Any, path: str) -> Any:
        told.append(("GET", path, None))
        return {"status": "running", "serves": {"pet": "made@1"}}

    monkeypatch.setattr("jobs.remote.Remote.put", put)
    monkeypatch.setattr("jobs.remote.Remote.get", get)
    served = at_server.json("serve", "made@1", "--name", "pet")
    assert served == {
        "model": "made@1", "served_name": "pet", "adapters": {}, "url": f"{there.url}/v1"
    }  # fmt: skip
    assert told == [("PUT", "deployments/pet", "made@1"), ("GET", "deployments/pet", None)]
    monkeypatch.undo()
    there.facts.set_deployment("pet", {"args": {"model": "made@1"}}, "test")
    argv = ["serve", "pet", "--stop", "--url", there.url, "--key", there.key]
    assert CliRunner().invoke(cli, argv).exit_code == 0
    assert there.facts.deployments() == []


def test_what_the_server_has_not_is_not_served(there: Any, at_server: Any) -> None:
    tiny_dataset(there.store)
    code, _, err = at_server("serve", "nobody")
    assert (code, "nobody" in err) == (3, True)


@pytest.mark.parametrize("argv", [["data", "verify"], ["data", "gc"], ["doctor"], ["up"],
                                  ["cluster", "show"], ["backup", "x"]])  # fmt: skip
def test_verbs_of_the_installations_machine_refuse_a_server(mulm: Any, argv: list[str]) -> None:
    for way in (["--url", "http://10.0.0.5:8000"], ["--url=http://10.0.0.5:8000"]):
        code, out, err = mulm(*argv, *way)
        assert (code, out) == (2, "")
        assert "the machine of the installation" in err
        assert "hint" in err
