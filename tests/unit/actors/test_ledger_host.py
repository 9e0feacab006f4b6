from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mulm.crew import LEASE_S
from mulm.errors import NotFoundError
from mulm.facts import Facts
from mulm.ledger import Ledger

pytest.importorskip("ray")

from actors.ledger_host import FACT_METHODS, LedgerClient, LedgerHost


def test_the_host_answers_every_fact(tmp_path: Path) -> None:
    host = LedgerHost(str(tmp_path / "ledger.sqlite"))
    host.call("create_run", ("run_1", "train", {}), {})
    host.call("append_events", ("run_1", [("log", {})]), {})
    assert LedgerHost(str(tmp_path / "ledger.sqlite")).call("run", ("run_1",), {}).id == "run_1"
    with pytest.raises(NotFoundError):
        host.call("run", ("run_2",), {})


def test_the_methods_are_those_of_the_protocol() -> None:
    assert {"publish", "resolve", "events", "key_secrets"} <= FACT_METHODS
    assert all(hasattr(Ledger, name) for name in FACT_METHODS)
    assert {name for name in dir(Facts) if not name.startswith("_")} == FACT_METHODS


@pytest.mark.parametrize("name", ["close", "_db", "__wrapped__"])
def test_nothing_else_is_reachable(tmp_path: Path, name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(LedgerClient(None), name)
    with pytest.raises(AssertionError):
        LedgerHost(str(tmp_path / "l")).call(name, (), {})


def test_it_keeps_who_leads(tmp_path: Path) -> None:
    now_s = [0.0]
    host = LedgerHost(str(tmp_path / "ledger.sqlite"), clock=lambda: now_s[0])
    assert [host.meet(name, {}).leads for name in "ab"] == [True, False]
    host.leave("a")
    assert host.meet("b", {}).leads
    now_s[0] = LEASE_S + 1.0
    assert host.meet("a", {}).leads


def test_the_client_travels() -> None:
    assert isinstance(pickle.loads(pickle.dumps(LedgerClient("handle"))), LedgerClient)
