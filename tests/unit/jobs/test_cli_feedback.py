"""`mulm feedback`, in the ledger of this machine and over HTTP alike."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import pytest

from jobs.cli_complete import feedback_ids
from jobs.cli_feedback import feedback
from jobs.exit_codes import EXIT_BY_CODE
from mulm.errors import NoSpaceError, NotFoundError
from mulm.ledger import Ledger
from mulm.records import Answered

CALLS = [{"name": "weather", "arguments": '{"where": "Rome"}', "id": "c1"}]
ASKED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Is it\nwarm in Rome? " + "Say so. " * 40},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "31", "tool_call_id": "c1"},
]


def fill(facts: Ledger) -> None:
    """Four answers that were judged, `fb_1` first."""
    for number, (model, verdict, comment) in enumerate(
        (
            ("tiny", "up", ""),
            ("tiny", "down", "cold\x1b[31m"),
            ("other", "up", ""),
            ("tiny", "up", ""),
        ),
        1,
    ):
        answered = Answered(
            model,
            tuple(ASKED),
            f"It is {number} degrees.\x1b[2J",
            f"mdl_{number % 2}",
            f"a{number}",
        )
        facts.give_feedback(f"fb_{number}", "key_1", answered, verdict, comment)  # type: ignore[arg-type]


@pytest.fixture
def at_home(mulm: Any) -> Any:
    """A machine whose application is down."""
    with Ledger(mulm.home.create().ledger) as facts:
        fill(facts)
    return mulm


@pytest.fixture
def at_a_server(at_server: Any, server: Any) -> Any:
    """A user who has named a server."""
    fill(server.facts)
    return at_server


@pytest.fixture(params=["at_home", "at_a_server"])
def place(request: pytest.FixtureRequest) -> Any:
    """The command line, working on this machine's ledger or with a server."""
    return request.getfixturevalue(request.param)


def ids(place: Any, *argv: str) -> list[str]:
    return [each["id"] for each in place.json("feedback", "ls", *argv)]


def test_the_verbs_are_these() -> None:
    assert set(feedback.commands) == {"ls", "show", "rm"}


def test_it_is_listed_the_newest_first_by_model_weights_and_verdict(place: Any) -> None:
    assert ids(place) == ["fb_4", "fb_3", "fb_2", "fb_1"]
    assert ids(place, "--model", "tiny", "--verdict", "up") == ["fb_4", "fb_1"]
    assert ids(place, "--model-id", "mdl_0") == ["fb_4", "fb_2"]
    assert ids(place, "--model", "nobody") == []
    code, out, err = place("feedback", "ls", "--model", "nobody")
    assert (code, out, err) == (0, "", "there is none\n")
    assert place("feedback", "ls", "--verdict", "sideways")[0] == EXIT_BY_CODE["config_invalid"]


def test_a_line_tells_each_on_one_line_and_is_harmless(place: Any) -> None:
    code, out, _ = place("feedback", "ls", "--model", "tiny")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["fb_4", "fb_2", "fb_1"]
    assert "down  tiny" in lines[1]
    assert "Is it warm in Rome? Say so." in lines[1]
    assert "... -> It is 2 degrees." in lines[1]
    assert "# cold" in lines[1]
    assert "\x1b" not in out
    assert "#" not in lines[0]


def test_one_is_shown_with_its_whole_conversation(place: Any) -> None:
    told = place.json("feedback", "show", "fb_2")
    assert told["messages"] == ASKED
    assert told["answer"] == "It is 2 degrees.\x1b[2J"
    assert (told["verdict"], told["comment"], told["key"]) == ("down", "cold\x1b[31m", "key_1")
    code, out, _ = place("feedback", "show", "fb_2")
    assert code == 0
    expected = [
        "fb_2  down", "tiny mdl_0", "a2", "[system]\n  Be kind.", "Say so. " * 40,
        '  calls weather({"where": "Rome"})', "[tool]\n  31", "[assistant]\n  It is 2 deg",
    ]  # fmt: skip
    for words in expected:
        assert words in out
    assert "\x1b" not in out


def test_what_somebody_says_forges_no_line(at_home: Any) -> None:
    asked = "Hello\n\n[assistant]\nI am\u2028[user]\x0b[tool]\r[system]\nyours"
    calls = [{"name": "a\n[user]", "arguments": "{}\n[tool]", "id": "c1"}]
    messages = (
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "1\nkey        key_admin", "tool_call_id": "c1"},
    )
    comment = "nice\nkey        key_admin\n\n[user]\rmodel  other"
    with Ledger(at_home.home.ledger) as facts:
        answered = Answered("tiny", messages, "It is\n[user]\nso.", "mdl_1", "a9")
        facts.give_feedback("fb_9", "key_1", answered, "up", comment)
    code, out, _ = at_home("feedback", "show", "fb_9")
    assert code == 0
    ours = [line for line in out.splitlines() if line and not line.startswith("  ")]
    assert [line.split()[0] for line in ours] == [
        "fb_9", "model", "answer", "key", "said", "comment",
        "[user]", "[assistant]", "[tool]", "[assistant]",
    ]  # fmt: skip
    assert "comment    nice key key_admin [user] model other" in ours
    assert [line for line in ours if line.startswith("key")] == ["key        key_1"]
    for line in ("  [user]", "  [assistant]", "  yours", "  key        key_admin"):
        assert line in out.splitlines()


def test_both_ways_tell_the_same(
    at_home: Any, at_a_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[Any]:
        found = [place.json("feedback", "ls"), place.json("feedback", "show", "fb_3")]
        for one in [*found[0], found[1]]:
            assert abs(one.pop("created_at") - one.pop("changed_at")) <= 1
        return found

    place = at_a_server
    there = told()
    monkeypatch.delenv("MULM_URL")
    assert told() == there


def test_it_is_forgotten_when_somebody_says_yes(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = place("feedback", "rm", "fb_1")
    assert (code, "--yes" in err) == (EXIT_BY_CODE["config_invalid"], True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked: list[str] = []

    def answer(question: str, **_: Any) -> bool:
        asked.append(question)
        return len(asked) > 1

    monkeypatch.setattr("click.confirm", answer)
    assert place("feedback", "rm", "fb_1") == (0, "", "fb_1 stays\n")
    assert "fb_1" in ids(place)
    assert place("feedback", "rm", "fb_1")[1] == "forgot fb_1\n"
    assert asked == ["Forget fb_1 of tiny?"] * 2
    told = place.json("feedback", "rm", "fb_3", "--yes")
    assert told == {"removed": "fb_3", "model": "other", "verdict": "up"}
    assert ids(place) == ["fb_4", "fb_2"]


@pytest.mark.parametrize("verb", [["show"], ["rm", "--yes"]])
@pytest.mark.parametrize("feedback_id", ["fb_9", "..", "../keys", "a/b", "", "x" * 1000, "\u202e"])
def test_what_is_not_there_is_told(place: Any, verb: list[str], feedback_id: str) -> None:
    code, out, err = place("feedback", *verb, feedback_id)
    assert (code, out) == (EXIT_BY_CODE["not_found"], ""), err
    assert "no feedback" in err
    if feedback_id == "fb_9":
        assert "`mulm feedback ls`" in err
    assert len(ids(place)) == 4


def test_what_is_gone_between_question_and_answer_is_forgotten(
    at_a_server: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []

    def gone(_desk: Any, feedback_id: str) -> None:
        removed.append(feedback_id)
        raise NotFoundError("no feedback")

    monkeypatch.setattr("jobs.feedback_desk.RemoteFeedback.remove", gone)
    assert at_a_server("feedback", "rm", "fb_1", "--yes")[0] == 0
    assert removed == ["fb_1"]


def test_a_removal_is_noted_whoever_does_it(at_home: Any) -> None:
    assert at_home("feedback", "rm", "fb_1", "--yes")[0] == 0
    with Ledger(at_home.home.ledger) as facts:
        [row] = facts.audit(None, None, 10)
    assert row.who.startswith("user:")
    assert (row.route, row.subject) == ("mulm feedback rm", "/api/v1/feedback/fb_1")


def test_a_removal_that_cannot_be_noted_is_none(
    at_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_audit", full)
        assert at_home("feedback", "rm", "fb_1", "--yes")[0] == EXIT_BY_CODE["no_space"]
    assert "fb_1" in ids(at_home)


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 4711"), OSError("no name")])
def test_somebody_without_a_name_can_remove_too(
    at_home: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nameless)
    assert at_home("feedback", "rm", "fb_1", "--yes")[0] == 0
    assert at_home("key", "make", "mine", "--json")[0] == 0
    with Ledger(at_home.home.ledger) as facts:
        assert {row.who for row in facts.audit()} == {f"user:uid {os.getuid()}"}
        assert [row.route for row in facts.audit()] == ["mulm key make", "mulm feedback rm"]


def test_a_key_for_inference_reads_nobodys(at_a_server: Any, server: Any) -> None:
    made = json.loads(at_a_server("key", "make", "a friend", "--json")[1])
    for argv in (["ls"], ["show", "fb_1"], ["rm", "fb_1", "--yes"]):
        code, out, _ = at_a_server("feedback", *argv, "--key", made["key"])
        assert (code, out) == (EXIT_BY_CODE["unauthorized"], "")


def test_a_shell_offers_ids(at_home: Any) -> None:
    context = click.Context(feedback.commands["show"])
    parameter = context.command.params[0]
    assert feedback_ids(context, parameter, "fb_") == ["fb_4", "fb_3", "fb_2", "fb_1"]
    assert feedback_ids(context, parameter, "fb_3") == ["fb_3"]
    at_home.home.ledger.write_bytes(b"no database" * 1000)
    assert feedback_ids(context, parameter, "") == []
