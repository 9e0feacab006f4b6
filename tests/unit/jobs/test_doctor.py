"""`mulm doctor`: each check finds the fault that it is for, and is quiet about a sound machine."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.cluster_info import ClusterInfo
from jobs import doctor_application as application
from jobs import doctor_environment as environment
from jobs import doctor_home as in_home
from jobs import doctor_machine as machine
from jobs import doctor_software as software
from jobs.doctor import CHECKS, examine
from jobs.doctor_finding import Disk, Surroundings, these_surroundings
from mulm.atomic import write_atomic
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.settings import Settings
from mulm.store import Store
from serve_app.keys import ensure_first_key

GB = 10**9


@pytest.fixture
def sound(tmp_path: Path) -> Surroundings:
    """A machine on which all is well, with an installation that was used."""
    home = Home(tmp_path / "home").create()
    with Ledger(home.ledger) as ledger:
        ensure_first_key(home, ledger)
    home.ledger.chmod(0o600)
    for number in range(3):
        Store(home.store).put("x", f"content {number}".encode())
    root = tmp_path / "root"
    for path, text in {
        "proc/meminfo": "MemTotal:       16000000 kB\n",
        "proc/version": "Linux version 6.8 (gcc)\n",
        "proc/mounts": "none / ext4 rw 0 0\n",
        "dev/shm/x": "",
        "bin/g++": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "tmp").mkdir()
    return Surroundings(
        home=home,
        env={
            "MULM_HTTP_PORT": "0", "MULM_DASHBOARD_PORT": "0", "TMPDIR": str(root / "tmp"),
            "CXX": sys.executable,
        },
        root=root,
        now_s=home.ledger.stat().st_mtime + 1,
        python=(3, 12),
        requirements=(
            "torch<2.15,>=2.13", 'ray[data]==2.60.0; extra == "app"', 'x; extra == "dev"',
        ),
        version_of={"torch": "2.13.0+cpu", "ray": "2.60.0"}.get,
        torch_cuda=None,
        disk=lambda _path: Disk(100 * GB, 50 * GB),
        open_files=65536,
        encodings={"file names": "utf-8", "the locale": "UTF-8"},
        user_id=os.getuid(),
    )  # fmt: skip


def changed(sound: Surroundings, **files: str) -> Surroundings:
    """The machine with other files, `__` in a name standing for a slash."""
    for name, text in files.items():
        path = sound.root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sound


def with_env(sound: Surroundings, **env: str) -> Surroundings:
    return replace(sound, env={**sound.env, **env})


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_machine_has_no_fault(name: str, sound: Surroundings) -> None:
    verdict = CHECKS[name](sound)
    assert (verdict.level, verdict.fix) == ("ok", ""), verdict


@pytest.mark.parametrize("name", CHECKS)
def test_before_the_first_start_there_is_none_either(name: str, sound: Surroundings) -> None:
    assert CHECKS[name](replace(sound, home=Home(sound.root / "tmp" / "new"))).level == "ok"


def expect(verdict: Any, level: str, *words: str) -> None:
    assert verdict.level == level, verdict
    assert verdict.fix
    for word in words:
        assert word in f"{verdict.told} {verdict.fix}"


def test_another_python(sound: Surroundings) -> None:
    expect(software.python(replace(sound, python=(3, 10))), "fault", "3.10", "PYTHON=")
    expect(software.python(replace(sound, python=(3, 15))), "fault", "3.15")


def test_packages_that_are_missing_or_too_old(sound: Surroundings) -> None:
    old = replace(sound, version_of={"torch": "2.4.0", "ray": "2.60.0"}.get)
    expect(software.packages(old), "fault", "torch is 2.4.0", ">=2.13", "make setup")
    expect(software.packages(replace(sound, version_of={}.get)), "fault", "ray is missing")


def test_a_gpu_whose_driver_and_torch_do_not_go_together(sound: Surroundings) -> None:
    driver = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\nGCC 12.3\n"
    with_gpu = changed(sound, proc__driver__nvidia__version=driver)
    expect(software.gpu(with_gpu), "warning", "MULM_TORCH=cuda")
    expect(software.gpu(replace(with_gpu, torch_cuda="13.0")), "fault", "535.104", "580")
    assert software.gpu(replace(with_gpu, torch_cuda="12.6")).level == "ok"


def test_no_compiler(sound: Surroundings) -> None:
    expect(software.compiler(with_env(sound, CXX="no-such-compiler")), "warning", "g++")


def test_too_little_memory_on_the_machine_or_in_its_container(sound: Surroundings) -> None:
    limited = changed(sound, sys__fs__cgroup__memory_max="x")
    (limited.root / "sys/fs/cgroup/memory.max").write_text("1000000000\n")
    expect(machine.memory(limited), "fault", "1.0 GB", "container", "--memory")
    (limited.root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.memory(limited).level == "ok"
    small = changed(sound, proc__meminfo="MemTotal:       3000000 kB\n")
    expect(machine.memory(small), "warning", "3.1 GB")


def test_a_small_dev_shm(sound: Surroundings) -> None:
    small = replace(sound, disk=lambda _path: Disk(64_000_000, 64_000_000))
    expect(machine.shared_memory(small), "warning", "64.0 MB", "--shm-size")
    assert machine.shared_memory(
        with_env(replace(sound, disk=lambda _: Disk(10**8, 0)), MULM_OBJECT_STORE_BYTES="90000000")
    ).level == "ok"  # fmt: skip


def test_few_open_files(sound: Surroundings) -> None:
    expect(machine.open_files(replace(sound, open_files=1024)), "warning", "1024", "nofile")


def test_a_clock_that_is_wrong(sound: Surroundings) -> None:
    expect(machine.clock(replace(sound, now_s=0.0)), "fault", "1970", "set-ntp")
    late = replace(sound, now_s=sound.now_s - 8000)
    expect(machine.clock(late), "warning", "ledger")


def test_windows_gives_little_memory(sound: Surroundings) -> None:
    wsl = changed(sound, proc__version="Linux version 5.15-microsoft-standard-WSL2\n")
    assert machine.wsl(wsl).level == "ok"
    small = changed(wsl, proc__meminfo="MemTotal:       4000000 kB\n")
    expect(machine.wsl(small), "warning", ".wslconfig")


def test_text_that_is_not_utf8(sound: Surroundings) -> None:
    plain = replace(sound, encodings={"file names": "utf-8", "the locale": "ANSI_X3.4-1968"})
    expect(environment.text_encoding(plain), "fault", "ANSI", "LANG=C.UTF-8")


def test_settings_that_do_not_fit_or_that_nothing_reads(sound: Surroundings) -> None:
    expect(environment.settings(with_env(sound, MULM_HTTP_PORT="x")), "fault", "MULM_HTTP_PORT")
    typo = with_env(sound, MULM_DASHBORD_PORT="1")
    expect(environment.settings(typo), "warning", "MULM_DASHBOARD_PORT")


def test_a_proxy_that_catches_loopback(sound: Surroundings) -> None:
    caught = with_env(sound, http_proxy="http://proxy:3128", no_proxy="example.org")
    expect(environment.proxies(caught), "warning", "http_proxy", "no_proxy=127.0.0.1,localhost,ex")
    spared = with_env(sound, HTTP_PROXY="http://p:1", NO_PROXY="localhost, 127.0.0.1")
    assert environment.proxies(spared).level == "ok"


def test_variables_that_lead_ray_astray(sound: Surroundings, alive: ClusterInfo) -> None:
    wrong = with_env(
        sound, RAY_ADDRESS="10.0.0.1:6379", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/x",
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:1", OPENAI_BASE_URL="https://api.openai.com/v1",
    )  # fmt: skip
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS")
    verdict = environment.ray(wrong)
    expect(verdict, "warning", *names, "mulm env")
    assert "OPENAI" not in verdict.told
    right = with_env(sound, RAY_API_SERVER_ADDRESS=alive.dashboard_url, RAY_AUTH_MODE="token")
    assert environment.ray(right).level == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(sound: Surroundings) -> None:
    sound.home.root.chmod(0o500)
    verdict = in_home.writable(sound)
    sound.home.root.chmod(0o700)
    expect(verdict, "fault", "MULM_HOME")


def test_a_home_that_is_a_file(sound: Surroundings) -> None:
    file = sound.root / "bin/g++"
    expect(in_home.writable(replace(sound, home=Home(file))), "fault", "MULM_HOME")
    expect(in_home.writable(replace(sound, home=Home(file / "x"))), "fault", "g++")


def test_secrets_that_others_may_read_and_files_of_another_user(sound: Surroundings) -> None:
    expect(in_home.permissions(replace(sound, user_id=4711)), "fault", "chown")
    sound.home.root.chmod(0o755)
    sound.home.api_key.chmod(0o644)
    expect(in_home.permissions(sound), "warning", "api_key", "chmod")


def test_a_full_disk(sound: Surroundings) -> None:
    for free_bytes, level in ((10**8, "fault"), (10**9, "warning")):
        full = replace(sound, disk=lambda _path, free=free_bytes: Disk(GB, free))
        expect(in_home.disk(full), level, "mulm gc")


def test_a_home_on_a_disk_of_a_network_or_of_windows(sound: Surroundings) -> None:
    where = sound.home.root.parent
    for kind in ("nfs4", "9p", "cifs"):
        mounts = f"none / ext4 rw 0 0\nserver:/x {where} {kind} rw 0 0\n"
        expect(in_home.filesystem(changed(sound, proc__mounts=mounts)), "fault", kind)


def test_a_damaged_database(sound: Surroundings) -> None:
    path = sound.home.ledger
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    expect(in_home.database(sound), "fault", "mulm restore")
    path.unlink()
    with sqlite3.connect(path) as database:  # whole, but not ours
        database.execute("CREATE TABLE x (y)")
    database.close()
    expect(in_home.database(sound), "fault", "runs")


def test_pages_of_the_database_that_are_damaged(sound: Surroundings) -> None:
    with Ledger(sound.home.ledger) as ledger:
        for number in range(500):
            ledger.create_run(f"run_{number:064}", "train", {"name": "x" * 500})
    content = bytearray(sound.home.ledger.read_bytes())
    content[40_000:200_000] = b"\x00" * 160_000
    sound.home.ledger.write_bytes(content)
    expect(in_home.database(sound), "fault")


def test_a_damaged_file_in_the_store(sound: Surroundings) -> None:
    digest = hashlib.sha256(b"content 1").hexdigest()
    path = sound.home.store / "blobs" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"content 2")
    expect(in_home.store(sound), "fault", digest[:12], "mulm data verify")


def test_a_key_that_is_lost_or_none(sound: Surroundings) -> None:
    secret = sound.home.key_secret.read_text()
    sound.home.key_secret.write_text("nonsense")
    expect(in_home.key(sound), "fault", "key_secret", "backup")
    sound.home.key_secret.write_text(secret)
    assert in_home.key(sound).level == "ok"
    sound.home.api_key.write_text("nonsense")
    expect(in_home.key(sound), "fault", "API key")
    sound.home.api_key.unlink()
    expect(in_home.key(sound), "fault", "mulm up")


def test_a_first_key_that_has_expired(sound: Surroundings) -> None:
    with Ledger(sound.home.ledger) as facts:
        [first] = facts.valid_keys()
        facts.change_key(replace(first, expires_s=sound.now_s + 1), first)
        assert in_home.key(sound).level == "ok"
    expect(in_home.key(replace(sound, now_s=sound.now_s + 2)), "fault", "expired", "mulm up")


def test_a_key_that_was_never_made_is_not_lost(sound: Surroundings) -> None:
    for path in (sound.home.api_key, sound.home.ledger):
        path.unlink()
    with Ledger(sound.home.ledger):
        pass  # as after `mulm runs ls`, before the first `mulm up`
    assert in_home.key(sound).level == "ok"


@pytest.fixture
def process(sound: Surroundings) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of the home's cluster."""
    env = {"MULM_CLUSTER": "abc", "MULM_HOME": str(sound.home.root), "MULM_TEMP_DIR": "/x"}
    with subprocess.Popen(["/bin/sleep", "60"], env=env, start_new_session=True) as sleeping:
        yield sleeping
        sleeping.kill()


@pytest.fixture
def alive(sound: Surroundings, process: subprocess.Popen[bytes]) -> ClusterInfo:
    """What says that the application is up, and its process; nobody answers."""
    write_atomic(sound.home.ray_token, b"t" * 64, mode=0o600)
    return write_info(sound, process.pid)


def write_info(sound: Surroundings, pid: int) -> ClusterInfo:
    info = ClusterInfo(
        id="abc", gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:9",
        http_host="127.0.0.1", http_port=9, pid=pid, temp_dir="/x",
    )  # fmt: skip
    write_atomic(sound.home.cluster, info.model_dump_json().encode(), mode=0o600)
    return info


def test_a_cluster_file_that_is_not_true(sound: Surroundings) -> None:
    write_info(sound, pid=2**22 - 1)
    expect(application.cluster_file(sound), "fault", "gone", "mulm down")
    sound.home.cluster.write_text("{")
    expect(application.cluster_file(sound), "fault", "cannot be read")


def test_an_application_that_does_not_answer(sound: Surroundings, alive: ClusterInfo) -> None:
    assert application.cluster_file(sound).level == "ok"
    assert application.leftovers(sound).level == "ok"
    expect(application.answers(sound), "fault", "does not answer", "mulm down")


def test_processes_that_a_killed_cluster_left(sound: Surroundings, process: Any) -> None:
    expect(application.leftovers(sound), "fault", str(process.pid), "mulm down")


def test_folders_that_killed_clusters_left(sound: Surroundings) -> None:
    left = sound.root / "tmp" / "mulm-0123456789ab"
    left.mkdir()
    expect(application.temp_folders(sound), "warning", "rm -r", left.name)


def test_a_port_that_is_taken(sound: Surroundings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        verdict = application.ports(with_env(sound, MULM_HTTP_PORT=str(port)))
    expect(verdict, "fault", str(port), "MULM_HTTP_PORT")


def test_a_check_that_breaks_hides_no_other(sound: Surroundings) -> None:
    def broken(_machine: Surroundings) -> Any:
        raise PermissionError("/proc is closed")

    first, second = examine(sound, {"one": broken, "two": machine.memory})
    assert (first.level, second.level) == ("warning", "ok")
    assert "/proc is closed" in first.told


def test_this_machine_can_be_looked_at(home: Home) -> None:
    seen = these_surroundings(home, os.environ)
    assert seen.disk(home.root / "not" / "there").total_bytes > 0
    levels = {name: CHECKS[name](seen).level for name in ("python", "packages", "text", "database")}
    assert set(levels.values()) == {"ok"}
    assert seen.version_of("no-such-package") is None


def test_the_command_tells_faults_by_its_exit_code(mulm, monkeypatch: Any) -> None:
    monkeypatch.setenv("MULM_HTTP_PORT", "0")
    monkeypatch.setenv("MULM_DASHBOARD_PORT", "0")
    told = mulm.json("doctor")
    assert [one["check"] for one in told["findings"]] == list(CHECKS)
    assert told["is_healthy"] is True
    assert not mulm.home.root.exists()  # nothing is changed
    monkeypatch.setenv("MULM_HTTP_PORT", "nonsense")
    code, out, err = mulm("doctor", "-q")
    assert code == 30
    assert err == ""
    assert "FAULT  settings" in out
    assert "do: " in out
    assert "ok " not in out
    assert Settings().http_port == 8000
