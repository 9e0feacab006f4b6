"""A suite's items: the files that are named, the bundled sample, or the hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.config import parse_config
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.remote_hub import fetch_hub
from mulm.errors import DeadlineError, NotFoundError
from mulm.eval import suite_data
from mulm.eval.config import EvaluateConfig
from mulm.eval.suite_data import find_suites
from mulm.eval.suites.gsm8k import Gsm8k
from mulm.eval.suites.registry import SUITES
from mulm.model.hf_hub import RemoteFile, Snapshot

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "corpora" / "eval"


def config(**values: object) -> EvaluateConfig:
    return parse_config(EvaluateConfig, {"model": "demo", **values})


class Shelf:
    """A hub whose every dataset has the same files, as hubs name those that they convert."""

    endpoint = "https://hub.invalid"
    names = tuple(
        f"{config}/{split}/000{number}.parquet"
        for config in ("default", "main", "ARC-Easy", "ARC-Challenge")
        for split in ("train", "validation", "test")
        for number in range(2)
    )

    def snapshot(self, repository: str, revision: str) -> Snapshot:
        assert revision == "refs%2Fconvert%2Fparquet"
        files = {name: RemoteFile(0, git_sha1="0" * 40) for name in self.names}
        return Snapshot(repository, revision, files)

    def download(self, _snapshot: Snapshot, names: list[str], folder: Path, _emit: object) -> None:
        (folder / names[0]).touch()


@pytest.mark.parametrize(
    ("url", "split"),
    [
        (
            suite.hub,
            {"blimp": "train", "hellaswag": "validation", "piqa": "validation"}.get(name, "test"),
        )
        for name, suite in SUITES.items()
    ]
    + [(Gsm8k.hub_shots, "train")],
)
def test_urls_name_the_scored_part(url: str, split: str, tmp_path: Path) -> None:
    shelf: Any = Shelf()
    files = fetch_hub(SourceSpec(path=url), tmp_path, lambda *_: None, shelf)
    assert {file.name.split("/")[1] for file in files} == {split}
    if "/ARC-" in url or "/main/" in url or "/default/" in url:
        assert len(files) == 2, "of one part of the dataset"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The URLs that a hub of two datasets was asked for."""
    urls: list[str] = []
    held = tmp_path / "hub" / "0000.parquet"
    held.parent.mkdir()
    held.write_bytes(b"rows")

    def fetch(spec: SourceSpec, _folder: Path) -> list[SourceFile]:
        urls.append(spec.path)
        if "piqa" in spec.path or "gsm8k" in spec.path:
            return [SourceFile(held.name, held)]
        raise DeadlineError("the hub does not answer", hint="try again")

    monkeypatch.setattr(suite_data, "fetch", fetch)
    return urls


def test_the_bundled_sample_needs_no_hub(asked: list[str], tmp_path: Path) -> None:
    found = find_suites(config(suites=["blimp", "lambada"]), SAMPLES, tmp_path)
    assert {name: files.origin for name, files in found.files.items()} == {
        "blimp": "sample",
        "lambada": "sample",
    }
    assert asked == []


def test_files_that_are_named(asked: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.jsonl").write_text("{}")
    (own / "shots.jsonl").write_text("{} ")
    data = {"gsm8k": str(own / "a.jsonl"), "gsm8k:shots": str(own / "shots.jsonl")}
    values = config(suites=["gsm8k", "blimp"], data=data | {"blimp": str(own)})
    found = find_suites(values, SAMPLES, tmp_path).files
    assert found["gsm8k"].origin == found["blimp"].origin == "file"
    assert [f.name for f in found["gsm8k"].items + found["gsm8k"].shots] == [
        "a.jsonl",
        "shots.jsonl",
    ]
    assert [f.name for f in found["blimp"].items] == ["a.jsonl", "shots.jsonl"]
    before = found["gsm8k"].identity
    assert before["items"] != before["shots"]
    (own / "a.jsonl").write_text("{}\n")
    assert found["gsm8k"].identity != before, "what the files hold counts"
    assert asked == []


def test_the_hub(asked: list[str], tmp_path: Path) -> None:
    found = find_suites(config(suites=["piqa", "gsm8k"]), SAMPLES, tmp_path).files
    assert asked == [SUITES["piqa"].hub, SUITES["gsm8k"].hub, SUITES["gsm8k"].hub_shots]  # type: ignore[attr-defined]
    assert {files.origin for files in found.values()} == {"hub"}
    assert (len(found["piqa"].shots), len(found["gsm8k"].shots)) == (0, 1)
    with pytest.raises(DeadlineError):
        find_suites(config(suites=["blimp"], data={"blimp": "hub"}), SAMPLES, tmp_path)


def test_a_suite_that_is_named_must_be_there(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(DeadlineError) as caught:
        find_suites(config(suites=["blimp", "hellaswag"]), SAMPLES, tmp_path)
    assert caught.value.hint == "try again; or name a file of it: --data hellaswag=FILE"
    with pytest.raises(NotFoundError, match=r"no\.jsonl"):
        find_suites(config(suites=["piqa"], data={"piqa": "no.jsonl"}), SAMPLES, tmp_path)


def test_all_passes_over_what_cannot_be_had(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "easy.jsonl").write_text("{}")
    values = config(suites=["all"], data={"arc_easy": str(tmp_path / "easy.jsonl")})
    found = find_suites(values, SAMPLES, tmp_path)
    assert set(found.files) == {"blimp", "lambada", "arc_easy"}
    assert found.skipped["lambada_standard"] == "the hub does not answer"
    assert found.skipped["piqa"] == "the hub cannot be reached"
    assert asked == [SUITES["lambada_standard"].hub], "an absent hub is asked once"
    assert set(found.files) | set(found.skipped) == set(SUITES)
    with pytest.raises(DeadlineError):
        find_suites(config(suites=["all", "piqa", "hellaswag"]), SAMPLES, tmp_path)
