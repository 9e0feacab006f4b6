"""`mulm data rm` at a server elsewhere: the same names go, and the same are kept."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.dataset_removal import RemoteRemoval
from jobs.exit_codes import EXIT_BY_CODE
from jobs.remote import Remote
from mulm.manifest import Manifest


def saved(there: Any, kind: str, seed: str, **parents: str) -> str:
    made = Manifest(kind=kind, code_version="1", config={"seed": seed}, blobs=(), parents=parents)  # type: ignore[arg-type]
    there.store.save(made)
    return made.id


@pytest.fixture
def there(server: Any) -> Any:
    """A server with `books@1` and `books@2`."""
    for number in ("1", "2"):
        tokenizer = saved(server, "tokenizer", number)
        server.facts.publish("tokenizer", "books", tokenizer)
        dataset = saved(server, "dataset", number, tokenizer=tokenizer)
        server.facts.publish("dataset", "books", dataset)
    return server


@pytest.fixture(params=["there", "here"])
def say(
    request: pytest.FixtureRequest, there: Any, mulm: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The command line of a user who has named the server, or on the server's machine."""
    if request.param == "there":
        monkeypatch.setenv("MULM_URL", there.url)
        monkeypatch.setenv("MULM_API_KEY", there.key)
    else:
        monkeypatch.setenv("MULM_HOME", str(there.home.root))
    return mulm


def refs(there: Any) -> list[str]:
    return [one.ref for kind in ("dataset", "tokenizer") for one in there.facts.versions(kind)]


def test_the_newest_goes_with_its_tokenizer(say: Any, there: Any) -> None:
    dataset_id = there.facts.versions("dataset")[1].manifest_id
    told = say.json("data", "rm", "books", "--yes")
    assert told == {
        "dataset": "books@2", "dataset_id": dataset_id,
        "removed": ["dataset books@2", "tokenizer books@2"],
    }  # fmt: skip
    assert refs(there) == ["books@1", "books@1"]
    assert say("data", "rm", "books@1", "--yes")[:2] == (
        0, "gone: dataset books@1, tokenizer books@1\n",
    )  # fmt: skip
    assert say("data", "rm", "books", "--yes")[0] == EXIT_BY_CODE["not_found"]


def test_what_is_needed_is_refused_with_the_same_words(say: Any, there: Any) -> None:
    there.facts.set_alias("dataset", "books", "good", 2)
    there.facts.create_run("run_1", "train", {"dataset": "books@1"})
    before = refs(there)
    for ref, words, hint in (
        ("books@2", "books@2 is books@good", "point the alias to another version first"),
        ("books@good", "books@2 is books@good", "point the alias to another version first"),
        ("books@1", "books@1 is read by run_1", "let it end first"),
    ):
        code, out, err = say("data", "rm", ref, "--yes")
        assert (code, out) == (EXIT_BY_CODE["conflict"], "")
        assert words in err
        assert hint in err
    there.facts.set_phase("run_1", "failed")
    dataset = there.facts.versions("dataset")[0].manifest_id
    there.facts.publish("model", "reader", saved(there, "model", "m", dataset=dataset))
    code, _, err = say("data", "rm", "books@1", "--yes")
    assert (code, "books@1 is needed by reader@1" in err) == (EXIT_BY_CODE["conflict"], True)
    assert refs(there) == before


def test_nothing_goes_without_a_yes(say: Any, there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = refs(there)
    code, _, err = say("data", "rm", "books@2")
    assert (code, "--yes" in err) == (EXIT_BY_CODE["config_invalid"], True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked: list[str] = []

    def answer(question: str, **_: Any) -> bool:
        asked.append(question)
        return len(asked) > 1

    monkeypatch.setattr("click.confirm", answer)
    code, out, err = say("data", "rm", "books")
    assert (code, out, err) == (0, "", "books@2 stays\n")
    assert refs(there) == before
    assert say("data", "rm", "books")[0] == 0
    assert asked == ["Take the name books@2 away?"] * 2
    assert refs(there) != before


def test_what_is_needed_is_refused_whenever_it_is_found(
    say: Any, there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here before anybody is asked; a server says so when it is to remove."""
    there.facts.set_alias("dataset", "books", "good", 2)
    before = refs(there)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: True)
    code, out, err = say("data", "rm", "books@2")
    assert (code, out) == (EXIT_BY_CODE["conflict"], "")
    assert "books@2 is books@good" in err
    assert refs(there) == before


def test_a_removal_is_noted(say: Any, there: Any) -> None:
    assert say("data", "rm", "books", "--yes")[0] == 0
    [row] = there.facts.audit()
    assert row.subject == "/api/v1/datasets/books@2"
    assert (row.method, row.who.startswith("user:")) in (("DELETE", False), ("CLI", True))


def test_a_name_whose_removal_was_not_answered_is_gone(there: Any) -> None:
    with Remote(there.url, there.key) as remote:
        removal = RemoteRemoval(remote)
        exact, _ = removal.find("books")
        assert removal.remove(exact)[0] == "dataset books@2"
        assert removal.remove(exact) == ["dataset books@2"]
