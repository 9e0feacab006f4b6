"""`mulm data ...` on the command line: results, samples, errors, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.cli_data import data
from jobs.exit_codes import EXIT_BY_CODE
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_dataset

VERBS = {
    "build", "ls", "show", "preview", "stats", "rejects", "diff", "lineage", "rm", "verify", "gc",
    "push",
}  # fmt: skip


@pytest.fixture(autouse=True)
def installation(
    home: Home, monkeypatch: pytest.MonkeyPatch, make_dataset, some_documents, doc
) -> Home:
    """books@1, @2 (one document more, @good), @3 without documents, and chats@1."""
    monkeypatch.setenv("MULM_HOME", str(home.root))
    store = Store(home.store)
    more = [*some_documents, doc("A new tale.", name="d.txt", source="tales")]
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "books", make_dataset(store, some_documents).id)
        ledger.publish("dataset", "books", make_dataset(store, more, min_chars=9).id)
        ledger.publish("dataset", "books", tiny_dataset(store).id)
        ledger.publish("dataset", "chats", make_dataset(store, some_documents[-1:]).id)
        ledger.set_alias("dataset", "books", "good", 2)
    return home


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        main(["data", *argv])
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def told(capsys: pytest.CaptureFixture[str], *argv: str):
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert "\x1b" not in out
    return out


def test_the_verbs_are_these() -> None:
    assert set(data.commands) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_an_example_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out
    assert f"Example:  mulm data {verb}" in out


def test_ls_tells_tokens_documents_size_age_and_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = told(capsys, "ls")
    assert [row["ref"] for row in rows] == ["books@1", "books@2", "books@3", "chats@1"]
    assert rows[1]["aliases"] == ["good"]
    assert (rows[1]["documents"], rows[1]["sources"]) == (16, ["books", "chats", "tales"])
    assert rows[1]["tokens"] > rows[0]["tokens"] > 100
    assert rows[2]["documents"] is None
    assert [row["ref"] for row in told(capsys, "ls", "chats")] == ["chats@1"]
    out = lines(capsys, "ls")
    assert re.search(r"^books@2 @good +[\d,]+ +16 +[\d.]+ KB +now +books, chats, tales$", out, re.M)


def test_ls_goes_on_where_a_version_is_damaged(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    with Ledger(installation.ledger) as ledger:
        damaged = ledger.versions("dataset", "books")[0].manifest_id
    (installation.store / "manifests" / f"{damaged}.json").unlink()
    rows = told(capsys, "ls", "books")
    assert [row["damage"] for row in rows] == ["not_found", "", ""]
    assert "[not_found]" in lines(capsys, "ls", "books")


def test_show_tells_what_a_version_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, "show", "books@good")
    assert shown["dataset"] == "books@2"
    assert [(s["label"], s["documents"], s["rejected"]) for s in shown["sources"]] == [
        ("books", 14, 2), ("chats", 1, 0), ("tales", 1, 0)
    ]  # fmt: skip
    assert shown["rules"]["documents"] == {"clean": {"min_chars": 9}}
    assert 0 < shown["shared_bytes"] < shown["size_bytes"]
    out = lines(capsys, "show", "books@good")
    for word in ("CC0-1.0", "clean.min_chars: 9", "made from", "shared with other versions"):
        assert word in out
    assert "no_source" not in lines(capsys, "show", "books@3")  # a version without documents


def test_preview_shows_text_that_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], installation: Home, make_dataset, doc
) -> None:
    store = Store(installation.store)
    with Ledger(installation.ledger) as ledger:
        evil = make_dataset(store, [doc("\x1b[2J\u202eevil", name="\x1b[31mred\n.txt")])
        ledger.publish("dataset", "evil", evil.id)
    for options in ([], ["--tokens", "--mask"], ["--mask"]):
        out = lines(capsys, "preview", "evil", *options)
        assert "\u202e" not in out
        assert "␛" in out
    out = lines(capsys, "stats", "evil") + lines(capsys, "diff", "evil", "books@1")
    assert "\u202e" not in out


def test_preview_shows_borders_and_the_mask(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "preview", "chats", "--tokens", "--mask")
    assert "[-<|endoftext|>|<|im_start|>|" in out
    assert "<|im_end|>" in out
    out = lines(capsys, "preview", "chats", "--mask")
    learned = re.sub(r"\[-.*?-\]", "", out.partition("learned\n")[2], flags=re.S)
    assert learned.strip() == "How are you?<|im_end|>"
    (document,) = told(capsys, "preview", "chats", "--tokens")
    assert document["n_tokens"] == len(document["tokens"])
    assert document["tokens"][0] == {
        "id": 0, "text": "<|endoftext|>", "completes": "<|endoftext|>",
        "is_special": True, "is_learned": False,
    }  # fmt: skip


def test_preview_takes_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(told(capsys, "preview", "books@1")) == 3
    assert told(capsys, "preview", "books@1") == told(capsys, "preview", "books@1")
    sides = told(capsys, "preview", "books@1", "-n", "9", "--split", "validation")
    assert {document["decision"] for document in sides} == {"validation"}
    (found,) = told(capsys, "preview", "books@1", "--grep", "NUMBER 11", "--chars", "50")
    assert "number 11" in found["text"]
    assert (len(found["text"]), found["skipped"] + found["left"]) == (50, found["size_bytes"] - 50)
    (tokens,) = told(
        capsys, "preview", "books@1", "--grep", "number 11", "--chars", "50", "--tokens"
    )
    assert tokens["left"] > 0
    code, out, err = run(capsys, "preview", "books@1", "--grep", "nowhere")
    assert (code, out) == (0, "")
    assert "no document" in err


def test_stats_draws_bars_and_writes_a_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = told(capsys, "stats", "books@1")
    assert (found["documents"], found["rejected"]) == (15, 2)
    page = tmp_path / "page.html"
    out = lines(capsys, "stats", "books@1", "--html", str(page))
    assert "█" in out
    assert "too_short" in out
    html = page.read_text()
    assert "too_short" in html
    assert "width=device-width" in html
    assert not re.search(r"<script|https?://|src=|@import", html)


def test_the_page_escapes_all_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, installation: Home, make_dataset, doc
) -> None:
    with Ledger(installation.ledger) as ledger:
        evil = make_dataset(Store(installation.store), [doc("x", language='<img src="x">&')])
        ledger.publish("dataset", "evil", evil.id)
    page = tmp_path / "page.html"
    lines(capsys, "stats", "evil", "--html", str(page))
    assert "<img" not in page.read_text()
    assert "&lt;img" in page.read_text()


def test_rejects_are_counted_and_shown_with_what_they_repeat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = told(capsys, "rejects", "books@1")
    assert found["reasons"] == {"duplicate": 1, "too_short": 1}
    repeated, short = found["samples"]
    assert (repeated["name"], repeated["row"]) == ("b.txt", 2)
    assert (repeated["original"]["name"], repeated["original"]["row"]) == ("a.txt", 0)
    assert short["original"] is None
    assert told(capsys, "rejects", "books@1", "-n", "0")["samples"] == []
    one = told(capsys, "rejects", "books@1", "--reason", "too_short")
    assert [sample["decision"] for sample in one["samples"]] == ["too_short"]
    out = lines(capsys, "rejects", "books@1")
    assert "2 of 17 documents rejected (11.8%)" in out
    assert "repeats train  books: a.txt part 0 row 0" in out


def test_diff_tells_settings_files_documents_and_shared_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = told(capsys, "diff", "books@1", "books@good")
    assert {change["name"] for change in found["settings"]} >= {"documents.clean.min_chars"}
    assert found["files"] == {"added": ["d.txt"], "removed": [], "changed": []}
    assert found["documents"]["added"] == {"train": 1}
    assert found["documents"]["same"] == 17
    assert found["samples"]["added"][0]["text"] == "A new tale."
    assert 0 < found["shared_bytes"] < min(found["size_bytes"])
    out = lines(capsys, "diff", "books@1", "books@2")
    assert "documents.clean.min_chars: 64 -> 9" in out
    assert "1 added (train 1)" in out
    assert "the same version" in lines(capsys, "diff", "books@2", "books@good")


def test_lineage_names_parents_and_children(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    add_model(installation, "books", 1)
    found = told(capsys, "lineage", "books@1")
    assert {relative["kind"] for relative in found["ancestors"]} == {"documents", "tokenizer"}
    assert [relative["refs"] for relative in found["descendants"]] == [["reader@1"]]
    out = lines(capsys, "lineage", "books@1")
    assert "books@1" in out
    assert "reader@1" in out


def test_rm_refuses_what_is_needed_and_removes_the_rest(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    add_model(installation, "books", 1)
    for ref, named in (("books@2", "books@good"), ("books@1", "reader@1")):
        code, out, err = run(capsys, "rm", ref, "--yes")
        assert code == EXIT_BY_CODE["conflict"]
        assert named in err
        assert out == ""
    code, _, err = run(capsys, "rm", "chats")
    assert code == EXIT_BY_CODE["config_invalid"]
    assert "--yes" in err
    assert told(capsys, "rm", "chats", "--yes")["removed"] == ["dataset chats@1"]
    assert [row["ref"] for row in told(capsys, "ls")] == ["books@1", "books@2", "books@3"]


def test_rm_refuses_what_a_run_reads_until_it_has_ended(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    with Ledger(installation.ledger) as ledger:
        ledger.create_run("train-1", "train", {"name": "x", "dataset": "chats@1"})
        code, _, err = run(capsys, "rm", "chats", "--yes")
        assert code == EXIT_BY_CODE["conflict"]
        assert "train-1" in err
        ledger.set_phase("train-1", "failed")
    assert told(capsys, "rm", "chats", "--yes")["removed"] == ["dataset chats@1"]


def test_rm_takes_the_tokenizer_that_was_trained_for_the_version_alone(
    capsys: pytest.CaptureFixture[str], installation: Home, make_dataset, doc
) -> None:
    store = Store(installation.store)
    alone, shared, other = (make_dataset(store, [doc(text)]) for text in ("one", "two", "three"))
    other = other.model_copy(update={"parents": shared.parents})
    store.save(other)
    with Ledger(installation.ledger) as ledger:
        for name, dataset in (("alone", alone), ("shared", shared), ("shared", other)):
            ledger.publish("dataset", name, dataset.id)
            ledger.publish("tokenizer", name, dataset.parents["tokenizer"])
    removed = told(capsys, "rm", "alone", "--yes")["removed"]
    assert removed == ["dataset alone@1", "tokenizer alone@1"]
    assert told(capsys, "rm", "shared@1", "--yes")["removed"] == ["dataset shared@1"]
    removed = told(capsys, "rm", "shared@2", "--yes")["removed"]
    assert removed == ["dataset shared@2", "tokenizer shared@1"]


def test_verify_names_each_damaged_file(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    assert told(capsys, "verify", "books@1") == {"versions": 3, "damages": []}
    assert "are whole" in lines(capsys, "verify")
    store = Store(installation.store)
    with Ledger(installation.ledger) as ledger:
        version = ledger.versions("dataset", "chats")[0]
    path = store.path(store.load(version.manifest_id).blob("train-00000.bin"))
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    code, out, err = run(capsys, "verify", "chats", "--json")
    assert code == EXIT_BY_CODE["corrupt"]
    [damage] = json.loads(out)["damages"]
    assert damage["file"] == "train-00000.bin"
    assert "chats@1" in damage["refs"]
    assert "1 files are damaged" in err
    code, out, _ = run(capsys, "verify")
    assert code == EXIT_BY_CODE["corrupt"]
    assert "(chats@1)  train-00000.bin" in out


def test_gc_removes_what_has_no_name_any_more(
    capsys: pytest.CaptureFixture[str], installation: Home
) -> None:
    lines(capsys, "rm", "chats", "--yes")
    assert told(capsys, "gc")["files"] == 0  # all of it is young
    plan = told(capsys, "gc", "--dry-run", "--grace", "0")
    assert plan["files"] > 0
    assert plan["freed_bytes"] == 0
    done = told(capsys, "gc", "--grace", "0")
    assert done["freed_bytes"] == plan["size_bytes"]
    assert "0 files are gone" in lines(capsys, "gc", "--grace", "0")
    assert told(capsys, "verify", "books@2")["damages"] == []


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (["show", "boks"], "not_found", "books"),
        (["show", "books@9"], "not_found", "books@"),
        (["ls", "boks"], "not_found", "'books'"),
        (["preview", "books@1", "--source", "boks"], "unknown_name", "'books'"),
        (["preview", "books@1", "--split", "test"], "config_invalid", "train"),
        (["preview", "books@1", "-n", "-1"], "config_invalid", "-1"),
        (["preview", "books@3"], "not_found", "data build"),
        (["rejects", "books@1", "--reason", "to_short"], "unknown_name", "'too_short'"),
        (["rejects", "chats", "--reason", "x"], "unknown_name", "none"),
        (["stats", "books@1", "--html", "no/such/folder/x.html"], "config_invalid", "folder"),
        (["diff", "books@1"], "config_invalid", "AFTER"),
        (["diff", "books@1", "books@3"], "not_found", "books@3"),
        (["gc", "--grace", "-1"], "config_invalid", "-1"),
        (["pastebin"], "unknown_name", "known"),
    ],
)
def test_mistakes_end_with_a_hint_and_a_code(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: str, hint: str
) -> None:
    status, out, err = run(capsys, *argv)
    assert status == EXIT_BY_CODE[code], err
    assert f"error [{code}]" in err
    assert hint in err
    assert out == ""


def add_model(home: Home, name: str, number: int) -> None:
    """reader@1, made from a dataset version."""
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        dataset = ledger.versions("dataset", name)[number - 1].manifest_id
        model = Manifest(
            kind="model", code_version="1", config={}, parents={"dataset": dataset}, blobs=()
        )
        ledger.publish("model", "reader", store.save(model))


def test_the_page_on_datasets_has_a_section_for_every_verb() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
    assert set(re.findall(r"^### (\w+)$", page, re.M)) == VERBS
    assert set(re.findall(r"^\$ mulm data (\w+)", page, re.M)) == VERBS
