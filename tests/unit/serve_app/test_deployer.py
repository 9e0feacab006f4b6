from __future__ import annotations

import pytest

from mulm.errors import NotRunningError
from mulm.records import Deployment
from serve_app.deployer import LOOK_AGAIN_S, Deployer


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def deployer(serve, clock):
    return Deployer(serve, clock)


def deployment(name="tiny", model="tiny@1", canary=None, revision=1):
    spec = {"args": {"model": model, "served_name": name}, "canary": canary}
    return Deployment(name, revision, spec, 2.0, "made", 1.0)


def test_engines_come_beside_what_is_there_and_go_again(serve, deployer):
    deployer.apply([deployment(), deployment("other")])
    assert serve.puts == [["engine-other", "engine-tiny", "mulm", "strangers"]]
    deployer.apply([deployment("other")])
    assert serve.puts[1:] == [["engine-other", "mulm", "strangers"]]
    deployer.apply([])
    assert serve.puts[2:] == [["mulm", "strangers"]]


def test_a_canary_has_engines_of_its_own(serve, deployer):
    deployer.apply([deployment(canary={"model": "tiny@2"})])
    assert serve.puts == [["canary-tiny", "engine-tiny", "mulm", "strangers"]]
    [engine] = serve.configs["canary-tiny"]["deployments"]
    assert engine["user_config"]["model"] == "tiny@2"
    assert engine["user_config"]["served_name"] == "tiny"


def test_nothing_is_put_or_asked_where_nothing_changes(serve, deployer, clock):
    deployer.apply([deployment()])
    n_asked = serve.n_asked
    for _ in range(5):
        deployer.apply([deployment()])
    assert (len(serve.puts), serve.n_asked) == (1, n_asked)
    clock.now_s += 2 * LOOK_AGAIN_S
    deployer.apply([deployment()])
    assert (len(serve.puts), serve.n_asked) == (1, n_asked + 1)


def test_who_does_not_lead_puts_nothing_and_knows_how_it_stands(serve, deployer, clock):
    leader = Deployer(serve, clock)
    deployer.watch([deployment()])
    assert serve.puts == []
    assert deployer.standing("engine-tiny").state == "starting"
    leader.apply([deployment()])
    clock.now_s += 2.0
    assert deployer.standing("engine-tiny") == leader.standing("engine-tiny")
    serve.configs.pop("engine-tiny")
    deployer.apply([deployment()])
    assert len(serve.puts) == 2, "who leads from now on looks at once"


def test_what_somebody_else_took_away_comes_back(serve, deployer, clock):
    deployer.apply([deployment()])
    del serve.configs["engine-tiny"]
    clock.now_s += 2 * LOOK_AGAIN_S
    deployer.apply([deployment()])
    assert "engine-tiny" in serve.configs


def test_the_ingress_never_takes_itself_away(serve, deployer, clock):
    del serve.configs["mulm"]
    deployer.apply([deployment()])
    assert serve.puts == []
    serve.configs["mulm"] = {"name": "mulm"}
    clock.now_s += 2 * LOOK_AGAIN_S
    deployer.apply([deployment()])
    assert len(serve.puts) == 1


def test_a_refusal_is_the_problem_until_it_works(serve, deployer, clock):
    serve.refuses = "Ray answered 500"
    deployer.apply([deployment()])
    assert deployer.standing("engine-tiny").state == "failed"
    assert deployer.standing("engine-tiny").words == "Ray answered 500"
    serve.refuses = ""
    clock.now_s += 2 * LOOK_AGAIN_S
    deployer.apply([deployment()])
    assert deployer.standing("engine-tiny").state == "running"


def test_how_engines_stand_is_asked_once_a_second(serve, deployer, clock):
    deployer.apply([deployment()])
    assert deployer.standing("engine-nobody").state == "starting"
    clock.now_s += 5
    n_asked = serve.n_asked
    serve.failing["engine-tiny"] = "mulm.errors.CorruptError: broken"
    for _ in range(5):
        assert deployer.standing("engine-tiny").state == "failed"
    assert serve.n_asked == n_asked + 1


def test_a_change_that_serve_refuses_does_not_run(serve, deployer, clock):
    deployer.apply([deployment()])
    serve.refuses = "Ray answered 500"
    changed = deployment()
    changed.spec["args"]["n_slots"] = 3
    deployer.apply([changed])
    assert deployer.standing("engine-tiny").state == "failed"
    deployer.apply([deployment()])
    assert deployer.standing("engine-tiny").state == "running", "it is as it was"


def test_while_serve_is_away_nothing_runs_or_fails_for_certain(serve, deployer, clock):
    deployer.apply([deployment()])
    answer = serve.request

    def away(*_args, **_kwargs):
        raise NotRunningError("nobody is there")

    serve.request = away
    clock.now_s += 5
    deployer.apply([deployment(), deployment("other")])
    for application in ("engine-tiny", "engine-other"):
        found = deployer.standing(application)
        assert (found.state, found.words) == ("starting", "nobody is there")
    assert deployer.details() == {}
    serve.request = answer
    clock.now_s += 5
    deployer.apply([deployment(), deployment("other")])
    assert deployer.standing("engine-other").state == "running"


def test_what_failed_is_begun_anew_when_it_is_asked_for_again_as_it_is(serve, deployer):
    deployer.apply([deployment(), deployment("other")])
    serve.failing["engine-tiny"] = "no GPU was free"
    deployer.apply([deployment(), deployment("other")])
    assert len(serve.puts) == 1, "nobody asked again"
    again = [deployment(revision=2), deployment("other", revision=2)]
    deployer.apply(again)
    assert serve.puts[1:] == [["engine-other", "mulm", "strangers"]]
    assert deployer.standing("engine-tiny").state == "starting"
    serve.failing.clear()
    deployer.apply(again)
    assert serve.puts[2:] == [["engine-other", "engine-tiny", "mulm", "strangers"]]
    deployer.apply(again)
    assert len(serve.puts) == 3
