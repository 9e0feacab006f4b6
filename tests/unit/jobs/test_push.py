"""Copies in the store elsewhere: of what was just made, and of what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.entry import JobContext, execute
from jobs.exit_codes import EXIT_BY_CODE
from jobs.push import push_made
from mulm.config import Frozen
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.origin import FsOrigin
from mulm.store import Store, open_store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer
from tests.unit.jobs.command import run


class Config(Frozen):
    mode: str = "ok"


@pytest.fixture
def url(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder elsewhere, for an installation with `text@1`, `text@2` and `tiny@1`."""
    url = f"file://{tmp_path}/elsewhere"
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.setenv("MULM_STORE_URL", url)
    store, tokenizer = Store(home.store), tiny_tokenizer()
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "text", tiny_dataset(store).id)
        ledger.publish("dataset", "text", tiny_dataset(store, vocab_size=320).id)
        ledger.publish("model", "tiny", tiny_stored_model(store, tokenizer).id)
    return url


def ids(home: Home, kind: Any) -> list[str]:
    with Ledger(home.ledger) as ledger:
        return [version.manifest_id for version in ledger.versions(kind)]


def test_one_version_or_all_are_copied_once(
    url: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ids(home, "dataset")
    code, out, err = run(capsys, "data", "push", "text@1", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["url"], told["versions"]) == (url, ["text@1"])
    assert told["files"] > 0
    assert FsOrigin(url).has_manifest(first)
    assert not FsOrigin(url).has_manifest(second)
    assert "are at" in run(capsys, "data", "push")[1]
    assert FsOrigin(url).has_manifest(second)
    assert run(capsys, "data", "push")[1] == f"all of it is at {url}\n"
    assert run(capsys, "model", "push", "tiny")[0] == 0
    far = open_store(Home(home.root / "far"), {"MULM_STORE_URL": url})
    (model,) = ids(home, "model")
    assert far.paths(far.load(model).blobs)


@pytest.mark.parametrize(
    ("argv", "store_url", "code", "said"),
    [
        (["data", "push"], "", "config_invalid", "MULM_STORE_URL is not set"),
        (["data", "push"], "nope://x", "config_invalid", "cannot be opened"),
        (["data", "push", "txt"], None, "not_found", "did you mean 'text'"),
        (["tokenizer", "push"], None, "not_found", "no tokenizer to copy"),
    ],
)
def test_mistakes(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    argv: list[str], store_url: str | None, code: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("MULM_STORE_URL", url if store_url is None else store_url)
    exit_code, _, err = run(capsys, *argv)
    assert exit_code == EXIT_BY_CODE[code]
    assert said in err


@pytest.fixture
def context(home: Home) -> JobContext:
    return JobContext("run_1", home, Store(home.store), Ledger(home.ledger))


def made(context: JobContext, config: Config) -> dict[str, Any]:
    blobs = (context.store.put("text", b"of a run"),)
    manifest = Manifest(kind="dataset", code_version="0", config={}, blobs=blobs)
    return {"dataset": "new@1", "dataset_id": context.store.save(manifest)}


def logged(context: JobContext) -> str:
    return " ".join(
        str(event.data["text"]) for event in context.facts.events("run_1", kinds=["log"])
    )


def test_what_a_run_has_made_is_copied(url: str, context: JobContext) -> None:
    result = execute("prepare", Config(), made, context)
    assert FsOrigin(url).has_manifest(result["dataset_id"])
    assert f"copied to {url}: 1 files, 8 B" in logged(context)


def test_what_a_measurement_has_read_is_not(url: str, context: JobContext) -> None:
    result = execute("evaluate", Config(), made, context)
    assert not FsOrigin(url).has_manifest(result["dataset_id"])


def test_a_run_succeeds_however_its_copy_fares(
    url: str, context: JobContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"a file")
    result = execute("prepare", Config(), made, context)
    assert context.facts.run("run_1").phase == "succeeded"
    assert "not copied: the store at" in logged(context)
    assert "`mulm data push`" in logged(context)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of a foreign filesystem")

    monkeypatch.setattr("jobs.push.push", broken)
    told: list[str] = []
    push_made(context.home, result, told.append)
    assert "ZeroDivisionError" in told[0]


def test_without_a_store_elsewhere_nothing_is_said(home: Home) -> None:
    push_made(home, {"dataset_id": "ds_1"}, pytest.fail, {})


def test_an_imported_model_is_copied(
    url: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "hf")
    assert run(capsys, "model", "export", "tiny", "--to", "hf", "--out", out)[0] == 0
    code, _, err = run(capsys, "model", "import", out, "--name", "again")
    assert code == 0, err
    assert f"copied to {url}" in err
    assert all(FsOrigin(url).has_manifest(model) for model in ids(home, "model")[1:])
