"""The life of the real cluster: guarded, alone, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from actors import cluster as cluster_life
from actors.job_client import reconcile
from actors.processes import Pack
from actors.write_fact import write_fact
from mulm.errors import ConflictError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.settings import Settings

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
FREE = Settings(http_port=0, dashboard_port=0)

PROBE = """
import sys, time
from jobs.entry import run_job
from mulm.config import Frozen
from mulm.errors import DataError

class Probe(Frozen):
    mode: str

def work(context, config):
    if config.mode == "fail":
        raise DataError("bad 'x'", hint="mend it")
    if config.mode == "wait":
        import ray
        ray.get(ray.remote(lambda: time.sleep(100)).remote())
    return {"answer": 42}

sys.exit(run_job("probe", sys.argv[1:], Probe, work))
"""

IN_CLUSTER = """
import json, os, signal, sys, time
import ray
from actors.ledger_host import ACTOR_NAME, NAMESPACE, connect_facts
from mulm.errors import NotFoundError
ray.init(sys.argv[1], namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
facts = connect_facts()
facts.create_run("run_kill", "probe", {})
facts.append_events("run_kill", (("log", {"n": n}) for n in range(3)))
try:
    facts.run("run_kil")
    error = None
except NotFoundError as caught:
    error = [type(caught).__name__, caught.message, caught.hint]
os.kill(int(sys.argv[2]), signal.SIGKILL)
seq = facts.append_events("run_kill", [("log", {"n": 3})])
numbers = [event.data["n"] for event in facts.events("run_kill")]
print(json.dumps({"error": error, "seq": seq, "n": numbers}))
"""


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    (tmp_path / "probe_job.py").write_text(PROBE)
    return tmp_path


def submit(cluster: Any, folder: Path, run_id: str, mode: str) -> str:
    config = folder / f"{mode}.json"
    config.write_text(json.dumps({"mode": mode}))
    return str(cluster.jobs.submit("probe_job", run_id, config, folder=folder))


def wait_for_phase(ledger: Ledger, run_id: str, phase: str, timeout_s: float = 300.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not any(run.id == run_id and run.phase == phase for run in ledger.runs()):
        assert time.monotonic() < deadline_s
        assert not any(run.id == run_id and run.has_ended for run in ledger.runs())
        time.sleep(0.1)


def status_of(url: str, path: str, headers: dict[str, str]) -> int:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer " + "0" * 64}, 403)],
)
def test_jobs_ask_for_the_token(cluster: Any, headers: dict[str, str], status: int) -> None:
    assert status_of(cluster.info.dashboard_url, "/api/jobs/", headers) == status


def test_everything_listens_on_loopback(cluster: Any) -> None:
    processes = Pack(cluster.home, cluster.info.id).find()
    listening = [c for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert len(listening) > 3
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_secrets_are_closed(cluster: Any) -> None:
    for path in (cluster.home.ray_token, cluster.home.cluster, cluster.home.api_key):
        assert path.stat().st_mode & 0o777 == 0o600
    assert cluster.home.root.stat().st_mode & 0o777 == 0o700
    assert Path(cluster.info.temp_dir).stat().st_mode & 0o777 == 0o700


def test_a_second_up_is_refused(cluster: Any) -> None:
    with pytest.raises(ConflictError) as caught:
        cluster_life.up(cluster.home, FREE)
    assert cluster.info.dashboard_url in caught.value.message
    assert cluster_life.connect(cluster.home) == cluster.info


def test_the_ledger_survives_its_process(cluster: Any) -> None:
    [host] = [
        process
        for process in Pack(cluster.home, cluster.info.id).find()
        if process.cmdline()[:1] == ["ray::LedgerHost"]
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_CLUSTER, cluster.info.gcs_address, str(host.pid)],
        env=cluster.env, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["error"] == ["NotFoundError", "no run 'run_kil'", "did you mean 'run_kill'?"]
    assert answer["n"] == [0, 1, 2, 3]
    assert answer["seq"] == 4


def test_jobs_end_in_the_ledger(cluster: Any, probe: Path) -> None:
    ledger = Ledger(cluster.home.ledger)
    submit(cluster, probe, "run_ok", "ok")
    submit(cluster, probe, "run_fail", "fail")
    assert cluster.jobs.wait("run_ok", 120) == "SUCCEEDED"
    assert cluster.jobs.wait("run_fail", 120) == "FAILED"
    assert ledger.run("run_ok").result == {"answer": 42}
    assert ledger.run("run_fail").error == {
        "code": "data_invalid", "message": "bad 'x'", "hint": "mend it",
    }  # fmt: skip
    assert "error [data_invalid]: bad 'x'" in cluster.jobs.log_tail("run_fail", 1)
    ledger.close()


def test_rays_own_command_submits_jobs(cluster: Any, probe: Path) -> None:
    (probe / "config.json").write_text('{"mode": "ok"}')
    done = subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", "--",
         "python", "-m", "probe_job", "--config", "config.json", "--run", "run_ray"],
        env=cluster.env | {"RAY_API_SERVER_ADDRESS": cluster.info.dashboard_url},
        cwd=probe, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"run": "run_ray", "answer": 42}' in done.stdout
    ledger = Ledger(cluster.home.ledger)
    assert ledger.run("run_ray").phase == "succeeded"
    ledger.close()


def test_a_job_that_waits_for_ray_can_be_stopped(cluster: Any, probe: Path) -> None:
    ledger = Ledger(cluster.home.ledger)
    submit(cluster, probe, "run_wait", "wait")
    wait_for_phase(ledger, "run_wait", "running")
    time.sleep(1.0)  # let it reach the waiting
    cluster.jobs.stop("run_wait")
    assert cluster.jobs.wait("run_wait", 50) == "STOPPED"
    assert ledger.run("run_wait").phase == "paused"
    ledger.close()


def test_a_killed_job_is_noticed_and_made_again(cluster: Any, probe: Path) -> None:
    ledger = Ledger(cluster.home.ledger)
    submit(cluster, probe, "run_dead", "wait")
    wait_for_phase(ledger, "run_dead", "running")
    for process in Pack(cluster.home, cluster.info.id).find():
        if "run_dead" in process.cmdline():
            process.send_signal(signal.SIGKILL)
    assert cluster.jobs.wait("run_dead", 60) == "FAILED"
    before = ledger.run("run_dead")
    assert before.phase == "running"
    after = reconcile(ledger, before, cluster.jobs.newest("run_dead"))
    assert after.error is not None
    assert after.error["code"] == "job_failed"
    assert submit(cluster, probe, "run_dead", "wait") == "run_dead-2"
    cluster.jobs.stop("run_dead")
    assert cluster.jobs.wait("run_dead", 60) == "STOPPED"
    ledger.close()


UP = """
from jobs.up import start
from mulm.home import Home
from mulm.settings import Settings
start(Home.from_env(), Settings(http_port=0, dashboard_port=0))
"""


def test_ctrl_c_during_up_leaves_nothing(home: Home, tmp_path: Path) -> None:
    env = os.environ | {"MULM_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
    starting = subprocess.Popen([sys.executable, "-c", UP], env=env, stderr=subprocess.DEVNULL)
    pack = Pack(home)
    deadline_s = time.monotonic() + 60.0
    while len(pack.find()) < 3:  # Ray's own children are there by now
        assert time.monotonic() < deadline_s
        assert starting.poll() is None
        time.sleep(0.05)
    [temp_dir] = pack.temp_dirs()
    starting.send_signal(signal.SIGINT)
    assert starting.wait(60) != 0
    assert pack.find() == []
    assert not temp_dir.exists()
    assert not home.cluster.exists()


def test_down_leaves_nothing_and_what_a_crash_left_is_cleared(home: Home) -> None:
    shared_before = set(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else set()
    first = cluster_life.up(home, FREE)
    pack = Pack(home, first.id)
    assert len(pack.find()) > 5
    psutil.Process(first.pid).kill()  # a crash: the file still says that it is up
    psutil.Process(first.pid).wait(10)
    ledger = Ledger(home.ledger)
    ledger.create_run("run_lost", "train", {})
    ledger.close()
    assert cluster_life.down(home) is True
    assert pack.find() == []
    assert not Path(first.temp_dir).exists()
    assert not home.cluster.exists()
    if shared_before:
        assert set(os.listdir("/dev/shm")) <= shared_before
    assert cluster_life.down(home) is False


def test_a_fact_is_written_from_outside(cluster) -> None:
    write_fact(cluster.home, "create_run", "run_outside", "train", {})
    write_fact(cluster.home, "set_phase", "run_outside", "failed", error={"code": "internal"})
    with Ledger(cluster.home.ledger) as ledger:
        assert ledger.run("run_outside").phase == "failed"
    with pytest.raises(NotFoundError, match="run_nowhere"):
        write_fact(cluster.home, "set_phase", "run_nowhere", "failed")
