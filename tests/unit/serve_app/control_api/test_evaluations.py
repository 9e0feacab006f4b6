"""Evaluations over HTTP, and aliases that only good models take."""

from __future__ import annotations

import pytest

ROOT = "/api/v1/evaluations"
ALIAS = "/api/v1/models/tiny/aliases/live"

pytestmark = pytest.mark.usefixtures("versions")


@pytest.fixture
def measured(ledger):
    """Notes that a version was measured."""

    def note(model: str, bits: float, dataset: str = "ds_1", xz: float = 3.0) -> str:
        run_id = f"run_{len(ledger.runs())}"
        ledger.create_run(run_id, "evaluate", {"model": model})
        result = {"bits_per_byte": bits, "xz_bits_per_byte": xz, "dataset_id": dataset}
        ledger.set_phase(run_id, "succeeded", result={"model": model} | result)
        return run_id

    return note


def promote(api, version: int, **more):
    return api.call("POST", f"{ALIAS}/promote", json={"version": version} | more)


def test_evaluations_are_listed_by_model_and_started(api, jobs, measured):
    one, two = measured("tiny@1", 2.0), measured("tiny@2", 1.9)
    assert {each["id"] for each in api.get(ROOT)["data"]} == {one, two}
    [found] = api.get(f"{ROOT}?model=tiny@2")["data"]
    assert (found["id"], found["result"]["bits_per_byte"]) == (two, 1.9)
    begun = api.call("POST", ROOT, json={"model": "tiny@1", "suites": ["blimp"], "limit": 2})
    assert begun.status_code == 202, begun.text
    assert jobs.submitted[0][0] == "jobs.evaluate"
    api.refused("POST", ROOT, 404, json={"model": "nobody"})
    api.refused("POST", ROOT, 400, json={"model": "tiny@1", "suites": ["nonsense"]})


def test_an_evaluation_that_has_no_text_is_refused_before_it_is_a_run(api, ledger, jobs, versions):
    """The models of these tests do not say what they were trained on."""
    before = ledger.last_happening()
    for path, body in (
        (ROOT, {"model": "tiny@1"}),
        ("/api/v1/runs", {"kind": "evaluate", "config": {"model": "tiny", "limit": 1}}),
    ):
        told = api.refused("POST", path, 404, json=body)
        assert (told["code"], told["param"]) == ("not_found", "dataset")
        assert "does not say which dataset" in told["detail"]
    assert (jobs.submitted, ledger.last_happening()) == ([], before)
    named = api.call("POST", ROOT, json={"model": "tiny@1", "dataset": "text"})
    assert named.status_code == 202, named.text


def test_a_list_means_a_model_as_all_references_do(api, ledger, measured):
    one, two = measured("tiny@1", 2.0), measured("tiny@2", 1.9)
    ledger.set_alias("model", "tiny", "live", 1)
    for model, run_id in (("tiny", two), ("tiny@live", one)):
        assert [each["id"] for each in api.get(f"{ROOT}?model={model}")["data"]] == [run_id]
    told = api.refused("GET", f"{ROOT}?model=tinny", 404)
    assert (told["code"], told["hint"]) == ("not_found", "did you mean 'tiny'?")
    api.refused("GET", f"{ROOT}?model=../x", 400)


def test_a_first_alias_takes_what_is_better_than_xz(api, measured):
    told = api.refused("POST", f"{ALIAS}/promote", 409, json={"version": 1})
    assert (told["code"], "no bits per byte of tiny@1" in told["detail"]) == (
        "not_good_enough",
        True,
    )
    measured("tiny@1", 3.5)
    told = api.refused("POST", f"{ALIAS}/promote", 409, json={"version": 1})
    assert "not fewer than 3.000 of xz" in told["detail"]
    assert told["hint"] == "PUT sets the alias without asking evaluations"
    measured("tiny@2", 2.0)
    assert promote(api, 2).json()["ref"] == "tiny@2"


def test_a_worse_model_takes_no_place_unless_that_is_let_through(api, ledger, measured):
    ledger.set_alias("model", "tiny", "live", 1)
    measured("tiny@1", 2.0)
    measured("tiny@2", 2.03)
    told = api.refused("POST", f"{ALIAS}/promote", 409, json={"version": 2})
    assert "2.030 bits per byte beside 2.000 (+1.50 %)" in told["detail"]
    assert "`max_worse_percent`" in told["hint"]
    assert ledger.aliases("model", "tiny") == {"live": 1}
    reply = promote(api, 2, max_worse_percent=2)
    assert (reply.status_code, reply.json()["version"]) == (200, 2)
    assert ledger.aliases("model", "tiny") == {"live": 2}


def test_only_numbers_of_one_text_are_compared_and_the_newest_counts(api, ledger, measured):
    ledger.set_alias("model", "tiny", "live", 1)
    measured("tiny@1", 2.0, "ds_1")
    measured("tiny@2", 1.0, "ds_2")
    told = api.refused("POST", f"{ALIAS}/promote", 409, json={"version": 2})
    assert "tiny@2 and tiny@1 on one dataset" in told["detail"]
    measured("tiny@2", 1.9, "ds_1")
    assert promote(api, 2).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (ALIAS, {"version": 9}, 404),
        (ALIAS, {"version": 0}, 400),
        (ALIAS, {}, 400),
        (ALIAS, {"version": 1, "max_worse_percent": -1}, 400),
        ("/api/v1/models/nobody/aliases/live", {"version": 1}, 404),
        ("/api/v1/models/tiny/aliases/5", {"version": 1}, 400),
        ("/api/v1/models/T/aliases/live", {"version": 1}, 400),
    ],
)
def test_what_means_nothing_is_refused(api, path, body, status):
    api.refused("POST", f"{path}/promote", status, json=body)
