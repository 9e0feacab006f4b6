"""Whole installations that earlier versions wrote, and their backups, open with this one."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.cli import main
from mulm.accounts import UsageRow
from mulm.damage import verify
from mulm.data.loader import TokenLoader
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import BlobEntry
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.checkpoint import newest_checkpoint
from mulm.model.stored import TOKENIZER, load_model
from mulm.records import Claim, KeptAnswer
from mulm.refs import Ref
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.local import check_run
from mulm.train.loop import train
from mulm.train.sync.outer_host import OuterHost
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.round_plan import round_plan

FOLDER = Path(__file__).parents[2] / "fixtures/installations"
MOST_BYTES = 200_000


@dataclass(frozen=True)
class Old:
    """An installation, its backup, and what must come out of it."""

    home: Home
    backup: Path
    expected: dict[str, Any]

    @property
    def store(self) -> Store:
        return Store(self.home.store)

    def facts(self) -> Ledger:
        return Ledger(self.home.ledger, clock=lambda: float(self.expected["now_s"]) + 60)

    def id_of(self, kind: Any, name: str) -> str:
        with self.facts() as facts:
            return facts.resolve(kind, Ref(name)).manifest_id


@pytest.fixture(params=sorted(FOLDER.glob("*.tar.xz")), ids=lambda path: path.name[:-7])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Old:
    assert request.param.stat().st_size < MOST_BYTES
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    home = Home(tmp_path / "home")
    monkeypatch.setenv("MULM_HOME", str(home.root))
    expected = json.loads((tmp_path / "expected.json").read_text())
    return Old(home, tmp_path / "backup.tar", expected)


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_its_facts_are_there(old: Old) -> None:
    with old.facts() as facts:
        refs = [v.ref for kind in ("dataset", "tokenizer", "model") for v in facts.versions(kind)]
        assert refs == ["tales@1", "tales@1", "small@1"]
        assert facts.aliases("model", "small") == {"live": 1}
        phases = {run.kind + " " + run.phase for run in facts.runs()}
        assert phases == {"prepare succeeded", "train succeeded", "train paused"}
        assert facts.key("key_friend").scope == "inference"
        assert facts.deployment("small").spec == {"model": "small@live"}
        assert [said.comment for said in facts.feedback()] == ["too short"]


def test_its_usage_audit_and_answers_are_there(old: Old) -> None:
    now_s = int(old.expected["now_s"])
    with old.facts() as facts:
        (used,) = facts.usage()
        assert used == UsageRow("key_friend", "small", now_s - now_s % 3600, 2, 30, 40)
        assert facts.add_usage("engine_1", 1, [used]) == {"key_friend": 70}, "it counts once"
        (row,) = facts.audit("key_first")
        assert (row.method, row.route, row.subject) == ("POST", "/api/v1/keys", "key_friend")
        kept = facts.claim_answer(Claim("key_friend", "again", "other"), "5" * 64, 60.0)
        assert kept == KeptAnswer("5" * 64, 201, {"location": "/x"}, '{"id": "x"}')


def test_its_files_are_whole(old: Old) -> None:
    assert verify(old.store, old.store.manifest_ids()) == []
    with old.facts() as facts:
        (file,) = facts.files()
    entry = BlobEntry(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes)
    assert json.loads(old.store.read(entry)) == {"prompt": old.expected["prompt"]}


def test_its_versions_and_runs_are_shown(old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "data", "show", "tales")["dataset_id"] == old.id_of("dataset", "tales")
    assert told(capsys, "data", "stats", "tales")
    assert told(capsys, "tokenizer", "encode", "tales", old.expected["prompt"])["ids"]
    assert told(capsys, "model", "show", "small@live")["aliases"] == ["live"]
    assert {row["name"] for row in told(capsys, "runs", "ls")} == {"tales", "small", "ours"}
    assert told(capsys, "runs", "show", "small")["result"]["model"] == "small@1"
    assert told(capsys, "data", "verify")["damages"] == []


def test_its_model_goes_on_with_a_text(old: Old) -> None:
    manifest = old.store.load(old.id_of("model", "small"))
    tokenizer = Tokenizer.from_bytes(old.store.read(manifest.blob(TOKENIZER)))
    ids = (tokenizer.end_of_text_id, *tokenizer.encode(old.expected["prompt"]))
    engine = Engine(load_model(old.store, manifest), 1, 32, seed=0, longest_step_s=None)
    asked = GenerateRequest("a", ids, SamplingParams(1, temperature=0.0), deadline_s=float("inf"))
    assert list(engine.generate([asked])["a"].token_ids) == [old.expected["next_id"]]


def test_its_dataset_can_be_trained_on(old: Old) -> None:
    dataset = old.store.load(old.id_of("dataset", "tales"))
    batch = TokenLoader(old.store, dataset, seq_len=16, seed=1).batch(0, 4)
    assert all(part.shape[0] == 4 for part in batch)


def test_its_stopped_run_on_islands_goes_on_to_its_end(old: Old) -> None:
    with old.facts() as facts:
        run = facts.run("run_islands")
    config = TrainConfig.model_validate(run.config)
    dataset = old.store.load(old.id_of("dataset", "tales"))
    folder = old.home.run(run.id)
    before = newest_checkpoint(folder / "checkpoints")
    assert before is not None
    settled = check_run(config, dataset, {}, old.store)
    plan = round_plan(settled.config, 1)
    host = OuterHost(folder / "rounds", plan, "127.0.0.1", "later")
    steps: list[int] = []

    def tell(kind: str, data: Any) -> None:
        steps.extend([int(data["step"])] if kind == "metric" else [])

    context = LocalContext(
        old.store, dataset, folder, torch.device("cpu"), tell, lambda: False,
        outer=OuterLink(*host.address, "later", "first", 1),
    )  # fmt: skip
    try:
        assert host.aggregator.state()[0], "the rounds before are known"
        result = train(config, context)
    finally:
        host.close()
    assert (result.steps, min(steps) > before.step) == (config.steps, True)


def test_its_backup_is_restored(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "restore", str(old.backup), "--check")["files"] > 0
    again = Home(tmp_path / "again")
    monkeypatch.setenv("MULM_HOME", str(again.root))
    told(capsys, "restore", str(old.backup))
    assert Store(again.store).manifest_ids() == old.store.manifest_ids()
    with Ledger(again.ledger) as facts, old.facts() as before:
        assert facts.versions("model") == before.versions("model")
        assert [run.id for run in facts.runs()] == [run.id for run in before.runs()]
    assert told(capsys, "data", "verify")["damages"] == []
    assert newest_checkpoint(again.run("run_islands") / "checkpoints") is not None
