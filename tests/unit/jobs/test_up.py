from __future__ import annotations

from jobs.up import _prepare, _stop_jobs
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.run_lock import run_lock


def test_a_run_of_a_living_process_is_not_lost(home: Home) -> None:
    with Ledger(home.ledger) as ledger, run_lock(home, "run_here"):
        for run_id in ("run_here", "run_lost"):
            ledger.create_run(run_id, "train", {})
            ledger.set_phase(run_id, "running")
        ledger.create_run("run_paused", "train", {})
        ledger.set_phase("run_paused", "paused")
        _prepare(home)
        assert ledger.run("run_paused").phase == "paused"
        assert ledger.run("run_here").phase == "running"
        assert ledger.run("run_lost").phase == "failed"


def test_a_job_that_does_not_end_is_told_in_words(home: Home, monkeypatch, caplog) -> None:
    class Jobs:
        def stop_all(self, _grace_s: float) -> list[str]:
            return ["run_1", "run_2"]

    monkeypatch.setattr("jobs.up.cluster.connect", lambda _home: None)
    monkeypatch.setattr("jobs.up.JobClient.of", lambda _info, _home: Jobs())
    _stop_jobs(home, 0.0)
    assert caplog.messages == [
        "run_1, run_2: ended before it was done; `mulm runs resume` goes on from what is kept"
    ]
