"""Deployments of an ingress follow the ledger, whatever happens to single ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from mulm.crew import CrewBook
from mulm.errors import NotFoundError, NotRunningError
from mulm.ledger import Ledger
from serve_app.applications import engine_application
from serve_app.deployer import Deployer
from serve_app.deployments import Deployments, alone
from serve_app.followed import Followed


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as facts:
        yield facts


class Everything:
    def __contains__(self, _model_id):
        return True


@pytest.fixture
def deployments(make):
    return make()


@pytest.fixture
def make(ledger, serve, served, scripted):
    """Makes ingresses beside each other."""

    def read(args, engine):
        if args.ref.name == "gone":
            raise NotFoundError("no model 'gone'")
        return replace(served, name=args.name, ref=str(args.ref), model_id=str(args.ref),
                       engine=engine)  # fmt: skip

    scripted.held = Everything()

    def follow(_application, around):
        return Followed(around(scripted), read, lambda _args: ("",), poll_s=0.001)

    async def greet(applications):
        greeted.append(applications)

    greeted = []

    def made(meet=alone):
        deployer = Deployer(serve, clock=iter(range(0, 10**9, 100)).__next__)
        found = Deployments(ledger, deployer, follow, greet, Random(5), meet, period_s=0.001)
        found.greeted = greeted
        return found

    return made


@pytest.fixture
def two(make):
    """Two ingresses, of whom the first leads."""
    book = CrewBook()
    return [make(partial(book.meet, name, 0.0)) for name in "ab"]


def want(ledger, name="tiny", model="tiny@1", canary=None):
    spec = {"args": {"model": model, "served_name": name}, "canary": canary}
    return ledger.set_deployment(name, spec, "test")


def look(deployments, n=1):
    async def some():
        for _ in range(n):
            await deployments.look()
        for each in deployments.serving.values():
            for followed in each.followed.values():
                while not (followed.is_current or followed.problem):
                    await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(some(), 5))


def test_what_the_ledger_wants_is_served_and_no_more(ledger, deployments):
    want(ledger)
    want(ledger, "other", "tiny@2")
    look(deployments)
    serving = deployments.serving
    assert {name: each.served.ref for name, each in serving.items()} == {
        "tiny": "tiny@1",
        "other": "tiny@2",
    }
    ledger.set_deployment("tiny", None, "removed")
    look(deployments)
    assert set(serving) == {"other"}


def test_nobody_is_taken_away_who_is_still_asked(ledger, serve, deployments):
    want(ledger)
    want(ledger, "other", canary={"model": "tiny@2"})
    look(deployments)
    n_puts = len(serve.puts)
    ledger.set_deployment("tiny", None, "removed")
    want(ledger, "other")
    look(deployments)
    assert len(serve.puts) == n_puts, "first nobody is asked any more"
    assert deployments.serving["other"].canary is None
    look(deployments)
    assert serve.puts[-1] == ["engine-other", "mulm", "strangers"]


def test_of_what_is_gone_nothing_is_kept(ledger, deployments):
    gone = []
    deployments._forget = gone.append
    want(ledger, "other")
    want(ledger, canary={"model": "tiny@2"})
    look(deployments)
    want(ledger)
    look(deployments)
    assert gone == [engine_application("tiny", is_canary=True)]
    ledger.set_deployment("tiny", None, "removed")
    deployments._unread["tiny"] = 1
    look(deployments)
    assert gone[1:] == ["engine-tiny"]
    assert deployments._tried_s.keys() == {"other"}
    assert not deployments._unread


def test_a_deployment_that_cannot_be_opened_leaves_the_others_alone(ledger, deployments):
    want(ledger, "bad", "gone@1")
    want(ledger)
    look(deployments)
    assert deployments.serving["bad"].itself.problem == "no model 'gone'"
    with pytest.raises(NotRunningError, match="'bad' is not loaded yet"):
        deployments.serving["bad"].draw()
    assert deployments.serving["tiny"].draw().ref == "tiny@1"


def test_a_canary_gets_its_share(ledger, deployments):
    want(ledger, canary={"model": "tiny@2", "weight": 25.0})
    look(deployments)
    drawn = Counter(deployments.serving["tiny"].draw().ref for _ in range(4000))
    assert drawn["tiny@1"] + drawn["tiny@2"] == 4000
    assert 900 < drawn["tiny@2"] < 1100
    assert deployments.serving["tiny"].served.ref == "tiny@1"


def test_another_share_begins_nothing_anew(ledger, serve, deployments):
    want(ledger, canary={"model": "tiny@2", "weight": 25.0})
    look(deployments)
    canary, n_puts = deployments.serving["tiny"].canary, len(serve.puts)
    deployments.serving["tiny"].tallies[1].has_failed.append(False)
    want(ledger, canary={"model": "tiny@2", "weight": 75.0})
    look(deployments)
    assert deployments.serving["tiny"].canary is canary
    assert len(deployments.serving["tiny"].tallies[1].has_failed) == 1
    assert len(serve.puts) == n_puts


def test_a_canary_that_fails_ends_by_itself_and_the_ledger_says_why(ledger, deployments):
    want(ledger, canary={"model": "tiny@2", "min_requests": 5})
    look(deployments)
    deployments.serving["tiny"].tallies[1].has_failed.extend([True] * 5)
    look(deployments)
    found = ledger.deployment("tiny")
    assert found.reason == "canary ended: 100 % of its 5 requests failed, of the others 0 %"
    assert found.spec["canary"] is None
    look(deployments)
    assert {deployments.serving["tiny"].draw().ref for _ in range(50)} == {"tiny@1"}


def test_of_two_ingresses_one_acts_and_both_serve(ledger, serve, two):
    want(ledger)
    for each in (two[1], two[0], two[1]):
        look(each)
    assert [each.serving["tiny"].draw().ref for each in two] == ["tiny@1"] * 2
    assert serve.puts == [["engine-tiny", "mulm", "strangers"]]


def test_a_canary_is_judged_once_by_what_all_ingresses_saw(ledger, two):
    want(ledger, canary={"model": "tiny@2", "min_requests": 6})
    for each in two:
        look(each)
    for each in two:
        each.serving["tiny"].tallies[1].has_failed.extend([True] * 3)
    look(two[1])
    look(two[1])
    assert ledger.deployment("tiny").spec["canary"], "the other one judges"
    look(two[0])
    found = ledger.deployment("tiny")
    assert found.reason == "canary ended: 100 % of its 6 requests failed, of the others 0 %"
    assert [each.reason for each in ledger.deployment_history("tiny")] == [found.reason, "test"]


def test_what_was_seen_of_another_revision_does_not_count(ledger, two):
    want(ledger, canary={"model": "tiny@2", "min_requests": 6})
    for each in two:
        look(each)
        each.serving["tiny"].tallies[1].has_failed.extend([True] * 3)
    look(two[1])
    want(ledger, canary={"model": "tiny@2", "min_requests": 6, "weight": 50})
    look(two[0])
    look(two[0])
    assert len(two[0].serving["tiny"].tallies[1].has_failed) == 3
    look(two[1])
    look(two[1])
    look(two[0])
    assert ledger.deployment("tiny").spec["canary"] is None, "counts go on at another share"


def test_who_leads_ends_nothing_that_the_other_may_still_ask(ledger, serve, two):
    want(ledger)
    want(ledger, "other")
    for each in two:
        look(each)
    ledger.set_deployment("other", None, "removed")
    look(two[0], 3)
    assert len(serve.puts) == 1
    look(two[0])
    assert serve.puts[1:] == [["engine-tiny", "mulm", "strangers"]]


def test_a_change_that_comes_first_is_not_undone_by_an_ended_canary(ledger, deployments):
    want(ledger, canary={"model": "tiny@2", "min_requests": 5})
    look(deployments)
    deployments.serving["tiny"].tallies[1].has_failed.extend([True] * 5)
    seen = ledger.deployments()
    want(ledger, model="tiny@3")

    class Late:
        def deployments(self):
            return seen

        def __getattr__(self, name):
            return getattr(ledger, name)

    deployments._facts = Late()
    look(deployments)
    assert ledger.deployment("tiny").spec["args"]["model"] == "tiny@3"


def test_it_goes_on_when_the_ledger_is_away_for_a_while(ledger, deployments):
    class Away:
        n_calls = 0

        def deployments(self):
            self.n_calls += 1
            if self.n_calls < 4:
                raise NotRunningError("the ledger is gone") if self.n_calls < 3 else OSError("odd")
            return ledger.deployments()

    deployments._facts = Away()
    want(ledger)

    async def check():
        deployments.start()
        deployments.start()
        async with asyncio.timeout(5):
            while not deployments.serving or not deployments.serving["tiny"].itself.is_current:
                await asyncio.sleep(0.001)
        deployments.stop()

    asyncio.run(check())
    assert deployments.greeted == [[]]


def test_a_problem_that_passes_is_forgotten(ledger, deployments, monkeypatch):
    monkeypatch.setattr("serve_app.deployments._AGAIN_S", 0.0)
    is_gone = [True]
    follow = deployments._follow

    def fragile(application, around):
        followed = follow(application, around)
        read = followed._open_served

        def maybe(args, engine):
            if is_gone[0]:
                raise NotRunningError("the store is away")
            return read(args, engine)

        followed._open_served = maybe
        return followed

    deployments._follow = fragile
    want(ledger)
    look(deployments)
    assert deployments.serving["tiny"].itself.problem == "the store is away"
    is_gone[0] = False
    look(deployments)
    assert deployments.serving["tiny"].served.ref == "tiny@1"


@pytest.mark.parametrize("model", ["tiny@1", "passing@1"])
@pytest.mark.parametrize("error", [NotRunningError("the store is away"), ValueError("odd")])
def test_what_could_not_be_opened_is_tried_again_a_canary_too(
    ledger, deployments, monkeypatch, model, error
):
    monkeypatch.setattr("serve_app.deployments._AGAIN_S", 0.0)
    errors = [error]
    follow = deployments._follow

    def fragile(application, around):
        followed = follow(application, around)
        read = followed._open_served

        def maybe(args, engine):
            if args.ref.name == "passing" and errors:
                raise errors[0]
            return read(args, engine)

        followed._open_served = maybe
        return followed

    deployments._follow = fragile
    canary = None if model == "passing@1" else {"model": "passing@1", "weight": 50.0}
    want(ledger, model=model, canary=canary)
    want(ledger, "zebra")
    look(deployments)
    assert deployments.serving["tiny"].problem
    assert deployments.serving["zebra"].served.ref == "tiny@1", "the others are served"
    errors.clear()
    look(deployments)
    assert not deployments.serving["tiny"].problem
    assert "passing@1" in {deployments.serving["tiny"].draw().ref for _ in range(50)}


def test_who_waits_for_the_first_look_knows_what_is_served(ledger, deployments, monkeypatch):
    want(ledger)

    async def begin() -> list[str]:
        monkeypatch.setattr(deployments, "_facts", None)  # away: every look fails
        deployments.start()
        await deployments.wait_for_look(0.05)
        before = sorted(deployments.serving)
        monkeypatch.setattr(deployments, "_facts", ledger)
        await deployments.wait_for_look(30.0)
        deployments.stop()
        return [*before, "then", *sorted(deployments.serving)]

    assert asyncio.run(begin()) == ["then", "tiny"]
