"""Cases that kill while clients create: all that was acknowledged is there, once, and goes on.

Runs, datasets, deployments, keys, files and an alias over the API. Invariants after each: what was
answered with 2xx is there, nothing is there twice, what was revoked is refused; runs that were
acknowledged end with a result; the event stream was heard without a gap and without a repetition.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import httpx
import psutil

from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.kills import kill_one
from benchmarks.chaos.listener import Listener
from benchmarks.chaos.victims import line_of, victims
from benchmarks.chaos.witness import Act, Witness
from benchmarks.chaos.world import SERVED, World, wait_for
from mulm.ledger import Ledger

PATIENCE_S = 110.0
_N_FACTS = 6
"""That are acknowledged before and after the kill."""
_N_BUILDS = 1
_N_DEPLOYMENTS = 1
_REFUSED_WITHIN_S = 5.0
_POLL_S = 0.2
_WORKED_WITH = frozenset({"ledger"})
"""What a run needs while it works, so that it is seen to its end."""


class Creator(Witness):
    """Also builds datasets and serves models, a few of each."""

    def __init__(self, world: World, draw: Random) -> None:
        super().__init__(world, draw)
        self.runs: set[str] = set()
        self.deployments: set[str] = set()
        self._n_asked = {"run": 0, "deployment": 0}

    def acts(self) -> Sequence[Act]:
        """See `Witness.acts`; what is dear comes first, and seldom."""
        if self._n_asked["run"] < _N_BUILDS:
            return (self._build,)
        if self._n_asked["deployment"] < _N_DEPLOYMENTS:
            return (self._serve, *super().acts())
        return super().acts()

    def missing(self) -> list[str]:
        """See `Witness.missing`."""
        with Ledger(self._world.home.ledger) as ledger:
            runs = {run.id for run in ledger.runs()}
            served = {each.name for each in ledger.deployments()}
            builds = [run.config["name"] for run in ledger.runs("prepare")]
        wrong = [f"the run {run} is gone" for run in sorted(self.runs - runs)]
        wrong += [f"{name} is served no more" for name in sorted(self.deployments - served)]
        return [*super().missing(), *wrong, *self.repeated("dataset", builds)]

    def let_in(self, within_s: float = _REFUSED_WITHIN_S) -> list[str]:
        """Keys that are let in and were revoked, or the other way round, after so long."""
        end_s = time.monotonic() + within_s
        while (wrong := self._let_in()) and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        return wrong

    def _let_in(self) -> list[str]:
        wrong = []
        for key, text in self.texts.items():
            if key in self.unsure and key not in self.revoked:
                continue
            headers = {"Authorization": f"Bearer {text}"}
            reply = httpx.get(f"{self._world.url}/v1/models", headers=headers, trust_env=False)
            if (reply.status_code == 401) != (key in self.revoked):
                wrong.append(f"{key}: {reply.status_code}; revoked: {key in self.revoked}")
        return wrong

    def unended(self) -> list[str]:
        """Waits for the runs that were acknowledged; those that have no result."""
        ended = [wait_for_end(self._world, run) for run in sorted(self.runs)]
        return [f"{run['id']}: {run['error']}" for run in ended if run["phase"] != "succeeded"]

    def clean_up(self) -> None:
        """End what it serves."""
        for name in self.deployments:
            self._world.call("DELETE", f"/api/v1/deployments/{name}")

    def _build(self, client: httpx.Client) -> bool:
        self._n_asked["run"] += 1
        name = self.named(f"w{self._draw.randrange(10**9)}")
        form = {"file": (f"{name}.jsonl", _lines(self._draw))}
        file = self.create(client, "/v1/files", files=form, data={"purpose": "user_data"})
        if not file.is_success:
            return False
        reply = self.create(client, "/api/v1/datasets", json=recipe_of(name, file.json()["id"]))
        if reply.is_success:
            self.runs.add(reply.json()["id"])
        return reply.is_success

    def _serve(self, client: httpx.Client) -> bool:
        self._n_asked["deployment"] += 1
        name = f"d{self._draw.randrange(10**9)}"
        body = {"model": f"{SERVED}@1", "served_name": name, "min_replicas": 0}
        reply = self.create(client, "/api/v1/deployments", json=body)
        if reply.is_success:
            self.deployments.add(name)
        return reply.is_success


def kill_among_creates(kind: str, world: World, draw: Random, outcome: Outcome) -> None:
    """Kill one process of a kind while facts are created."""
    first = _last_happening(world)
    with Listener(world, after=first) as listener:
        with Creator(world, Random(draw.random())) as creator:
            creator.wait_for_more(_N_FACTS, PATIENCE_S)
            killed_s = kill_one(world, kind, draw)
            creator.wait_for_more(_N_FACTS, PATIENCE_S)
            outcome.seen["again_s"] = round(time.monotonic() - killed_s, 1)
        if kind in _WORKED_WITH:
            outcome.require(bool(creator.runs), "no run was acknowledged")
            outcome.wrong += creator.unended()
        outcome.wrong += listener.otherwise(_told(world, first), PATIENCE_S)
    outcome.wrong += [*creator.missing(), *creator.let_in()]
    outcome.seen["acknowledged"] = creator.n_acknowledged
    outcome.seen["not acknowledged"] = creator.n_refused
    outcome.seen["connections"] = listener.n_connections
    outcome.require(bool(creator.revoked), "no key was revoked")
    creator.clean_up()


def kill_a_build(world: World, draw: Random, outcome: Outcome) -> None:
    """Kill the process of a run: its end is told with the reason, and the same request goes on."""
    form = {"file": ("a.jsonl", _lines(draw))}
    headers = {"Authorization": f"Bearer {world.key}"}
    with httpx.Client(base_url=world.url, headers=headers, timeout=60.0, trust_env=False) as client:
        file = client.post("/v1/files", files=form, data={"purpose": "user_data"}).json()["id"]
        recipe = recipe_of(f"w{draw.randrange(10**9)}", file)
        run = client.post("/api/v1/datasets", json=recipe).json()["id"]
        with Listener(world, f"/api/v1/runs/{run}/events") as listener:
            _driver_of(world, run).kill()
            lost = wait_for_end(world, run)
            outcome.require(lost["phase"] == "failed", f"{run} is said to be {lost['phase']}")
            outcome.require(bool(lost["error"]["message"]), f"{run} has failed without a word")
            again = client.post("/api/v1/datasets", json=recipe)
            outcome.require(again.status_code == 202, f"again: {again.status_code} {again.text}")
            outcome.require(again.json()["id"] == run, f"{again.json()['id']} is another run")
            ended = wait_for_end(world, run)
            outcome.require(ended["phase"] == "succeeded", f"{run}: {ended['error']}")
            with Ledger(world.home.ledger) as ledger:
                told = [event.seq for event in ledger.events(run)]
            outcome.require(told == list(range(1, len(told) + 1)), f"events count {told}")
            outcome.wrong += listener.otherwise(told, PATIENCE_S)


def recipe_of(name: str, file_id: str) -> dict[str, Any]:
    """A small dataset of an uploaded file."""
    source = {"file": file_id, "licence": "public domain"}
    return {"name": name, "sources": [source], "tokenizer": {"vocab_size": 300}}


def wait_for_end(world: World, run_id: str) -> dict[str, Any]:
    """A run as soon as nothing works on it, as the API tells it; while nobody answers, later."""

    def ended() -> dict[str, Any] | None:
        time.sleep(_POLL_S)
        try:
            found: dict[str, Any] = world.call("GET", f"/api/v1/runs/{run_id}")
        except httpx.HTTPError:
            return None
        return None if found["is_living"] else found

    found: dict[str, Any] = wait_for(ended, PATIENCE_S, f"the end of {run_id}")
    return found


def _lines(draw: Random) -> bytes:
    """Documents that are alike enough to be text and are never the same."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "some", "grey", "old", "birds"]
    texts = [" ".join(draw.choices(words, k=60)) + "." for _ in range(40)]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _driver_of(world: World, run_id: str) -> psutil.Process:
    def found() -> list[psutil.Process]:
        drivers = victims(world.pack, "build driver")
        return [process for process in drivers if run_id in line_of(process)]

    return wait_for(found, PATIENCE_S, f"the process of {run_id}")[0]  # type: ignore[no-any-return]


def _last_happening(world: World) -> int:
    with Ledger(world.home.ledger) as ledger:
        return ledger.last_happening()


def _told(world: World, after: int) -> list[int]:
    with Ledger(world.home.ledger) as ledger:
        return [happening.seq for happening in ledger.happenings(after)]


CASES = [
    Case(
        f"create-kill-{kind}",
        f"SIGKILL of the {kind} while facts are created over the API",
        partial(kill_among_creates, kind),
    )
    for kind in ("ingress", "ledger")
] + [Case("create-kill-run", "SIGKILL of the process of a run that the API began", kill_a_build)]
