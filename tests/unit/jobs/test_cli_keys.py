"""`mulm key` and `mulm usage`, in the ledger of this machine and over HTTP alike."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from jobs.cli_keys import LONGEST_LIFE_S, LONGEST_OVERLAP_S, key, key_lines, seconds_in
from jobs.key_desk import found
from mulm.accounts import UsageRow
from mulm.config import parse_config
from mulm.errors import ConfigError, ConflictError, NotFoundError
from mulm.ledger import Ledger
from serve_app.control_api.keys import MAX_OVERLAP_S, NewKey
from serve_app.key_text import is_key, read_secret
from serve_app.keys import ensure_first_key, read_first_key

VERBS = {"ls", "make", "rotate", "revoke"}


@pytest.fixture
def here(mulm: Any) -> Any:
    """A machine whose application is down."""
    mulm.home.create()
    with Ledger(mulm.home.ledger) as facts:
        ensure_first_key(mulm.home, facts)
    return mulm


@pytest.fixture(params=["here", "server"])
def place(request: pytest.FixtureRequest, here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line, working on this machine's ledger or with a server."""
    if request.param == "server":
        server = request.getfixturevalue("server")
        monkeypatch.setenv("MULM_URL", server.url)
        monkeypatch.setenv("MULM_API_KEY", server.key)
    return here


def ok(mulm: Any, *argv: str) -> str:
    code, out, err = mulm(*argv)
    assert code == 0, err
    return str(out)


def listed(mulm: Any) -> list[dict[str, Any]]:
    return list(json.loads(ok(mulm, "key", "ls", "--json")))


def test_the_verbs_are_these() -> None:
    assert set(key.commands) == VERBS


def test_a_key_is_made_listed_rotated_and_revoked(place: Any) -> None:
    made = ok(
        place, "key", "make", "a friend", "--model", "demo", "--expires-in", "30d",
        "--requests-per-minute", "60", "--token-quota", "1000000",
    )  # fmt: skip
    assert is_key(made.strip()), "the text alone, for a shell to take"
    [one] = [each for each in listed(place) if each["name"] == "a friend"]
    assert (one["scope"], one["models"]) == ("inference", ["demo"])
    assert one["expires_at"] == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert one["limits"]["token_quota"] == 10**6
    line = next(row for row in ok(place, "key", "ls").splitlines() if "a friend" in row)
    assert re.search(r"inference, asks demo, until \d{4}-.*, 60 requests/min, 1,000,000", line)
    rotated = json.loads(ok(place, "key", "rotate", "a friend", "--overlap", "1h", "--json"))
    assert rotated["id"] == one["id"]
    assert is_key(rotated["key"])
    assert rotated["key"] != made.strip()
    ok(place, "key", "revoke", one["id"])
    assert one["id"] not in [each["id"] for each in listed(place)]
    assert place("key", "revoke", one["id"])[0] == 3


def test_mistakes_are_named_and_change_nothing(place: Any) -> None:
    before = listed(place)
    for argv, code in (
        (("make", "x", "--expires-in", "soon"), 2),
        (("make", "x", "--requests-per-minute", "0"), 2),
        (("make", ""), 2),
        (("make", "first"), 9),
        (("rotate", "nobody"), 3),
        (("revoke", "nobody"), 3),
    ):
        found_code, _, err = place("key", *argv)
        assert found_code == code, (argv, err)
    assert listed(place) == before


def test_mistakes_are_told_in_words_of_the_command_line(place: Any) -> None:
    for option in ("requests-per-minute", "tokens-per-minute", "max-concurrent", "token-quota"):
        code, _, err = place("key", "make", "x", f"--{option}", "-1")
        assert code == 2
        assert f"--{option}" in err
        assert "limits." not in err
    for text in ("99999999999d", "36601d"):
        code, _, err = place("key", "make", "x", "--expires-in", text)
        assert code == 2
        assert "too long" in err
        assert "36600d at most" in err
    code, _, err = place("key", "rotate", "first", "--overlap", "31d")
    assert code == 2
    assert "30d at most" in err


def test_the_longest_times_are_those_of_the_api() -> None:
    assert LONGEST_OVERLAP_S == MAX_OVERLAP_S
    parse_config(NewKey, {"name": "x", "expires_in_s": LONGEST_LIFE_S})
    with pytest.raises(ConfigError):
        parse_config(NewKey, {"name": "x", "expires_in_s": LONGEST_LIFE_S + 1})


def test_a_name_is_given_once(place: Any) -> None:
    ok(place, "key", "make", "a friend")
    code, out, err = place("key", "make", "a friend")
    assert (code, out) == (9, "")
    assert "mulm key rotate 'a friend'" in err
    ok(place, "key", "revoke", "a friend")
    ok(place, "key", "make", "a friend")


def test_every_change_here_leaves_a_row_with_the_name_of_who_made_it(here: Any) -> None:
    made = json.loads(ok(here, "key", "make", "x", "--json"))
    ok(here, "key", "rotate", made["id"])
    ok(here, "key", "revoke", made["id"])
    with Ledger(here.home.ledger) as facts:
        rows = facts.audit()
    assert [row.route for row in rows] == ["mulm key revoke", "mulm key rotate", "mulm key make"]
    for row in rows:
        assert row.who.startswith("user:")
        assert (row.method, row.outcome) == ("CLI", "done")
        assert row.subject == f"/api/v1/keys/{made['id']}"


def test_a_quiet_verb_says_the_text_alone(here: Any) -> None:
    code, out, err = here("key", "make", "x", "--model", "nothing", "-q")
    assert (code, is_key(out.strip()), err) == (0, True, "")
    assert "nothing is served" in here("key", "make", "y", "--model", "nothing")[2]


def test_a_key_that_has_expired_is_listed_so(here: Any) -> None:
    [first] = listed(here)
    assert "expired" not in key_lines([first], 0.0)[0]
    ending = first | {"expires_at": 1000}
    assert "until 1970-01-01 00:16" in key_lines([ending], 999.0)[0]
    assert "expired 1970-01-01 00:16" in key_lines([ending], 1000.0)[0]


def test_what_is_no_address_is_said_before_a_key_is_missed(here: Any) -> None:
    code, _, err = here("runs", "ls", "--url", "foo")
    assert (code, "'foo' is no address of a server" in err) == (2, True)
    code, _, err = here("runs", "ls", "--url", "http://foo:1")
    assert (code, "no key for http://foo:1" in err) == (14, True)


def test_the_first_key_is_rotated_in_its_file_too(here: Any) -> None:
    old = read_first_key(here.home)
    new = ok(here, "key", "rotate", "first").strip()
    assert read_first_key(here.home) == new != old
    with Ledger(here.home.ledger) as facts:
        assert not ensure_first_key(here.home, facts), "the next start finds it as it is"
        assert [k.name for k in facts.valid_keys()] == ["first"]
    other = json.loads(ok(here, "key", "make", "x", "--json"))
    ok(here, "key", "rotate", other["id"])
    assert read_first_key(here.home) == new
    assert read_secret(here.home.key_secret)


def test_a_servers_first_key_is_not_written_here(here: Any, server: Any, monkeypatch: Any) -> None:
    ours = read_first_key(here.home)
    monkeypatch.setenv("MULM_URL", server.url)
    monkeypatch.setenv("MULM_API_KEY", server.key)
    name = listed(here)[0]["name"]
    ok(here, "key", "rotate", name, "--overlap", "1h")
    assert read_first_key(here.home) == ours


def test_usage_is_shown_by_day_and_by_hour(here: Any) -> None:
    with Ledger(here.home.ledger) as facts:
        [first] = facts.valid_keys()
        hour = int(time.time()) // 3600 * 3600
        facts.add_usage("w", 1, [UsageRow(first.id, "demo", hour, 3, 1500, 20)])
    out = ok(here, "usage")
    assert "first" in out
    assert "1,500" in out.splitlines()[-1]
    [row] = json.loads(ok(here, "usage", "--by", "hour", "--of", "first", "--json"))
    assert (row["start_at"], row["model"], row["requests"]) == (hour, "demo", 3)
    assert json.loads(ok(here, "usage", "--model", "other", "--json")) == []
    assert json.loads(ok(here, "usage", "--of", "key_revoked", "--json")) == []


def test_usage_of_a_server(here: Any, server: Any, monkeypatch: Any) -> None:
    hour = int(time.time()) // 3600 * 3600
    rows = [UsageRow("key_1", f"m{n:03}", hour, 1, 1, 1) for n in range(150)]
    server.facts.add_usage("w", 1, rows)
    monkeypatch.setenv("MULM_URL", server.url)
    monkeypatch.setenv("MULM_API_KEY", server.key)
    told = json.loads(ok(here, "usage", "--json"))
    assert [row["model"] for row in told] == [row.model for row in rows]


def test_times_and_names() -> None:
    texts = ("90s", "2m", "1h", "30d")
    assert [seconds_in(text, 10**9) for text in texts] == [90, 120, 3600, 2592000]
    for text in ("", "1", "1w", "-1s", "1.5h", "\u0663d"):
        with pytest.raises(ConfigError, match="is no time"):
            seconds_in(text, 10**9)
    keys = [
        {"id": "key_1", "name": "a"},
        {"id": "key_2", "name": "a"},
        {"id": "key_3", "name": "b"},
    ]
    assert found(keys, "b")["id"] == "key_3"
    assert found(keys, "key_2")["id"] == "key_2"
    with pytest.raises(ConflictError, match="2 keys"):
        found(keys, "a")
    with pytest.raises(NotFoundError):
        found(keys, "c")
