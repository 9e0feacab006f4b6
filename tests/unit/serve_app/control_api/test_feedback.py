"""Feedback over HTTP: who may give it, who may read it, and that nothing of it is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.control_api.feedback import MAX_CHARS, MAX_COMMENT_CHARS
from serve_app.service import Fixed
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

ROOT = "/api/v1/feedback"
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]
BODY = {
    "model": "tiny",
    "messages": ASKED,
    "answer": "A friend.",
    "verdict": "up",
    "comment": "<b>kind</b>",
    "model_id": "mdl_base+mdl_adapter",
    "answer_id": "chatcmpl-1",
}


LIST_LACKS = {"messages", "answer"}


@pytest.fixture(autouse=True)
def served_before(ledger):
    """`tiny` is an adapter of `base`; `other` was served first as mdl_first, then by an alias."""
    for name in ("base", "adapter", "first", "next", "last"):
        ledger.publish("model", "m" if name in ("next", "last") else name, f"mdl_{name}")
    ledger.set_alias("model", "m", "live", 1)
    base = {"model": "base@1", "adapters": {"tiny": "adapter@1"}}
    ledger.set_deployment("base", {"args": base}, "serve")
    for spec in (
        {"args": {"model": "first@1", "served_name": "other"}},
        {"args": {"model": "m@live", "served_name": "other"}, "canary": {"model": "base@1"}},
        None,
    ):
        ledger.set_deployment("other", spec, "serve")


def lines(api, **params):
    return api.get(ROOT, params=params)["data"]


def give(api, key: str = KEY, **more):
    return api.call("POST", ROOT, key=key, json=BODY | more)


def test_what_was_given_is_listed_whole(api):
    reply = give(api)
    assert reply.status_code == 201, reply.text
    made = reply.json()
    assert reply.headers["location"] == f"{ROOT}/{made['id']}"
    assert {name: made[name] for name in BODY} == BODY
    assert (made["object"], made["key"]) == ("feedback", "key_1")
    assert api.get(reply.headers["location"]) == made
    [line] = lines(api)
    starts = {"asked_start": "Who are you?", "answer_start": "A friend."}
    assert line == {name: made[name] for name in made.keys() - LIST_LACKS} | starts


def test_a_list_tells_how_texts_begin_and_no_more(api):
    long = "x" * 10_000
    give(api, messages=[{"role": "user", "content": long}], answer=long)
    assert len(api.call("GET", ROOT).content) < 1000


def test_what_is_not_known_may_be_left_out(api):
    body = {"model": "tiny", "messages": ASKED[1:], "answer": "A friend.", "verdict": "down"}
    made = api.call("POST", ROOT, json=body).json()
    assert (made["comment"], made["model_id"], made["answer_id"]) == ("", None, None)


def test_a_key_for_inference_gives_it_and_reads_nobodys(api):
    made = give(api, WEAK_KEY).json()
    assert made["key"] == "key_2"
    for path in (ROOT, f"{ROOT}/{made['id']}"):
        assert api.refused("GET", path, 403, key=WEAK_KEY)["code"] == "forbidden"
    api.refused("POST", ROOT, 401, key="mulm_sk_wrong", json=BODY)
    api.refused("DELETE", f"{ROOT}/{made['id']}", 403, key=WEAK_KEY)
    assert [each["id"] for each in lines(api)] == [made["id"]]


def test_a_key_for_some_models_judges_no_other(api):
    key = api.call("POST", "/api/v1/keys", json={"name": "x", "models": ["other"]}).json()["key"]
    problem = api.refused("POST", ROOT, 403, key=key, json=BODY)
    assert (problem["code"], problem["param"]) == ("forbidden", "model")
    assert give(api, key, model="other", model_id="mdl_first").status_code == 201


def test_the_latest_verdict_of_a_key_holds(api):
    first = give(api).json()
    friends = give(api, WEAK_KEY).json()
    again = give(api, verdict="down", comment="no")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert [(each["id"], each["verdict"]) for each in api.get(ROOT)["data"]] == [
        (friends["id"], "up"),
        (first["id"], "down"),
    ]
    assert give(api, answer_id="chatcmpl-2").status_code == 201, "of another answer it is another"


def test_the_list_is_read_in_pages_by_model_and_verdict(api):
    for number in range(5):
        verdict = "up" if number % 2 else "down"
        model_id = None if number < 4 else BODY["model_id"]
        give(api, answer=str(number), verdict=verdict, model=NAMES[number // 4], model_id=model_id)
    first = api.get(f"{ROOT}?limit=3")
    rest = api.get(f"{ROOT}?limit=3&after={first['last_id']}")
    answers = [each["answer_start"] for each in first["data"] + rest["data"]]
    assert (answers, first["has_more"], rest["has_more"]) == (list("43210"), True, False)
    assert [each["answer_start"] for each in lines(api, verdict="up")] == ["3", "1"]
    assert [each["answer_start"] for each in lines(api, model="tiny")] == ["4"]
    assert [each["answer_start"] for each in lines(api, model_id=BODY["model_id"])] == ["4"]
    assert lines(api, model=BODY["model_id"]) == [], "an id is no name"
    api.refused("GET", f"{ROOT}?after=fb_none", 404)
    api.refused("GET", f"{ROOT}/fb_none", 404)
    api.refused("GET", f"{ROOT}?verdict=sideways", 400)


NAMES = ("base", "tiny")


@pytest.mark.parametrize(
    ("model", "model_id", "is_its"),
    [
        ("tiny", "mdl_base+mdl_adapter", True),
        ("tiny", "mdl_base", False),
        ("tiny", "mdl_adapter", False),
        ("tiny", "mdl_base+mdl_first", False),
        ("base", "mdl_base", True),
        ("base", "mdl_base+mdl_adapter", False),
        ("other", "mdl_first", True),
        ("other", "mdl_next", True),
        ("other", "mdl_last", False),
        ("other", "mdl_base", True),
        ("other", "mdl_adapter", False),
        ("other", "mdl_none", False),
    ],
)
def test_weights_are_judged_under_names_under_which_they_have_answered(
    api, model, model_id, is_its
):
    if is_its:
        assert give(api, model=model, model_id=model_id).status_code == 201
        return
    problem = api.refused("POST", ROOT, 400, json=BODY | {"model": model, "model_id": model_id})
    assert problem["param"] == "model_id"
    assert "system_fingerprint" in problem["hint"]
    assert lines(api) == []


def test_what_is_served_now_is_known_without_the_ledger(api, served):
    api.app.state.service.deployments = {"tiny": Fixed(served)}
    assert give(api, model_id=served.fingerprint).status_code == 201
    api.refused("POST", ROOT, 404, json=BODY | {"model": "x", "model_id": served.fingerprint})


def test_what_was_said_is_removed(api, ledger):
    path = give(api).headers["location"]
    assert api.call("DELETE", path).status_code == 204
    assert lines(api) == []
    for method in ("GET", "DELETE"):
        api.refused(method, path, 404)
    told, noted = ledger.happenings()[-1], ledger.audit()[1]
    assert (told.kind, told.subject, told.data["is_removed"]) == ("feedback", path[17:], True)
    assert (noted.method, noted.subject, noted.outcome) == ("DELETE", path, "204")


def test_a_key_that_has_said_enough_may_change_it_and_say_no_more(api, monkeypatch):
    monkeypatch.setattr("mulm.ledger_feedback.MAX_ROWS_PER_KEY", 1)
    first = give(api, WEAK_KEY).json()
    problem = api.refused("POST", ROOT, 403, key=WEAK_KEY, json=BODY | {"answer": "more"})
    assert problem["code"] == "insufficient_quota"
    assert "DELETE /api/v1/feedback/" in problem["hint"]
    assert give(api, WEAK_KEY, verdict="down").status_code == 200
    api.call("DELETE", f"{ROOT}/{first['id']}")
    assert give(api, WEAK_KEY, answer="more").status_code == 201


def called(text: str) -> list[dict]:
    """A conversation with one text in each place that holds the caller's own."""
    call = {"id": text, "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": text},
    ]


def test_all_that_is_kept_counts(api):
    assert give(api, messages=called("x" * 1000)).status_code == 201
    body = BODY | {"messages": called("x" * (MAX_CHARS // 2))}
    problem = api.refused("POST", ROOT, 400, json=body)
    assert (problem["param"], "262,144" in problem["hint"]) == ("messages", True)
    assert len(lines(api)) == 1


def test_turns_are_kept_as_training_reads_them(api):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "nobody", "tool_call_id": "c1"},
    ]
    assert give(api, messages=asked).json()["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "look", "arguments": "{}", "id": "c1"}],
        },
        {"role": "tool", "content": "nobody", "tool_call_id": "c1"},
    ]
    problem = api.refused("POST", ROOT, 400, json=BODY | {"messages": asked[3:]})
    assert problem["param"] == "messages"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"verdict": "sideways"}, "verdict"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
        ({"answer": ""}, "answer"),
        ({"answer": "x" * (MAX_CHARS + 1)}, "answer"),
        ({"comment": "x" * (MAX_COMMENT_CHARS + 1)}, "comment"),
        ({"messages": [{"role": "user", "content": "x" * MAX_CHARS}]}, "messages"),
        ({"model": "x" * 65}, "model"),
        ({"model_id": "ds_1"}, "model_id"),
        ({"model_id": "mdl_+++"}, "model_id"),
        ({"model_id": "mdl_"}, "model_id"),
        ({"model_id": "mdl_base+"}, "model_id"),
        ({"model_id": "mdl_base+mdl_adapter\n"}, "model_id"),
        ({"answer_id": ""}, "answer_id"),
        ({"mood": "good"}, "mood"),
    ],
)
def test_what_is_no_feedback_or_too_much_is_refused_and_not_kept(api, change, param):
    assert api.refused("POST", ROOT, 400, json=BODY | change)["param"] == param
    assert api.get(ROOT)["data"] == []


def test_sent_twice_it_is_given_once_and_it_is_noted_who_gave_it(api, ledger):
    headers = {"idempotency-key": "k1"}
    first, again = (api.call("POST", ROOT, json=BODY, headers=headers) for _ in range(2))
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    other = BODY | {"verdict": "down"}
    problem = api.refused("POST", ROOT, 422, json=other, headers=headers)
    assert problem["code"] == "idempotency_key_reused"
    assert [each["verdict"] for each in api.get(ROOT)["data"]] == ["up"]
    row = ledger.audit()[-1]
    assert (row.who, row.route, row.subject) == ("key_1", ROOT, f"{ROOT}/{first.json()['id']}")


@pytest.mark.parametrize("name", ["tniy", "tiny@7", "text", "Tiny", "no such thing", "mdl_nothing"])
def test_a_model_that_nobody_knows_is_not_judged(api, name):
    problem = api.refused("POST", ROOT, 404, json=BODY | {"model": name, "model_id": None})
    assert (problem["code"], problem["param"]) == ("model_not_found", "model")
    assert lines(api) == []


def test_whatever_a_model_can_be_called_is_judged(api, served, ledger):
    """What is served now, by each of its names; what was served; what lies in the store."""
    api.app.state.service.deployments = {"now": Fixed(replace(served, name="now", ref="n@4"))}
    for name in ("now", "n@4", "mdl_1", "tiny", "base", "other", "first@1", "m@live", "m"):
        assert give(api, model=name, model_id=None).status_code == 201, name
    swapped = ledger.versions("model")[0].manifest_id
    assert give(api, model=swapped, model_id=None).status_code == 201, "asked by its id"
    problem = api.refused("POST", ROOT, 404, json=BODY | {"model": "nwo", "model_id": None})
    assert problem["hint"] == "did you mean 'now'?"
    key = api.call("POST", "/api/v1/keys", json={"name": "x", "models": ["nwo"]}).json()["key"]
    problem = api.refused("POST", ROOT, 404, key=key, json=BODY | {"model": "nwo"})
    assert problem["hint"] == "it is the `model` that was asked", "no name that the key may not ask"


def test_a_key_for_inference_hears_nothing_of_what_is_only_stored(api, ledger):
    ledger.publish("model", "private", "mdl_private")
    assert give(api, model="private", model_id=None).status_code == 201
    problem = api.refused(
        "POST", ROOT, 404, key=WEAK_KEY, json=BODY | {"model": "private", "model_id": None}
    )
    assert problem["code"] == "model_not_found"
