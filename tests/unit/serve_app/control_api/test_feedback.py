"""Feedback over HTTP: who may give it, who may read it, and that nothing of it is lost."""

from __future__ import annotations

import pytest

from serve_app.control_api.feedback import MAX_CHARS, MAX_COMMENT_CHARS
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

ROOT = "/api/v1/feedback"
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]
BODY = {
    "model": "tiny",
    "messages": ASKED,
    "answer": "A friend.",
    "verdict": "up",
    "comment": "<b>kind</b>",
    "model_id": "mdl_0123456789ab+adp_1",
    "answer_id": "chatcmpl-1",
}


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
    assert api.get(ROOT)["data"] == [made]


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
    assert api.get(ROOT)["data"] == [made]


def test_a_key_for_some_models_judges_no_other(api):
    key = api.call("POST", "/api/v1/keys", json={"name": "x", "models": ["other"]}).json()["key"]
    problem = api.refused("POST", ROOT, 403, key=key, json=BODY)
    assert (problem["code"], problem["param"]) == ("forbidden", "model")
    assert give(api, key, model="other").status_code == 201


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
        give(api, answer=str(number), verdict=verdict, model=f"m{number // 4}")
    first = api.get(f"{ROOT}?limit=3")
    rest = api.get(f"{ROOT}?limit=3&after={first['last_id']}")
    answers = [each["answer"] for each in first["data"] + rest["data"]]
    assert (answers, first["has_more"], rest["has_more"]) == (list("43210"), True, False)
    assert [each["answer"] for each in api.get(f"{ROOT}?verdict=up")["data"]] == ["3", "1"]
    assert [each["answer"] for each in api.get(f"{ROOT}?model=m1")["data"]] == ["4"]
    assert len(api.get(ROOT, params={"model": BODY["model_id"]})["data"]) == 5
    api.refused("GET", f"{ROOT}?after=fb_none", 404)
    api.refused("GET", f"{ROOT}/fb_none", 404)
    api.refused("GET", f"{ROOT}?verdict=sideways", 400)


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
