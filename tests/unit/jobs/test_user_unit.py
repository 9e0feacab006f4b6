"""Units of systemd: what they say, that systemd takes them, how they are installed."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import join_unit, up_unit
from jobs.cli import main
from jobs.exit_codes import exit_code
from jobs.user_unit import install, uninstall, unit_path
from mulm.errors import AuthError, ConfigError, ConflictError, NotRunningError, PortBusyError
from mulm.home import Home
from mulm.settings import Settings

ENV = {
    "MULM_CLUSTER_PORTS": "7000-7199", "MULM_HTTP_PORT": "8001", "MULM_STORE_URL": "file:///mnt/nas",
    "MULM_API_KEY": "mulm_sk_x",
}  # fmt: skip


def joining(home: Home, name: str = "laptop") -> str:
    return join_unit.join_unit(home, "10.0.0.1:6379", name, "guest", ENV)


def starting(home: Home, lan: str | None = None) -> str:
    return up_unit.up_unit(home, Settings.from_env(ENV), lan, ENV)


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_it_joins_as_asked_and_again_only_where_that_helps(home: Home) -> None:
    text = joining(home)
    (start,) = values(text, "ExecStart")
    assert start.startswith(f'"{sys.executable}" "-c" "from jobs.cli import main; main()" "join"')
    assert start.endswith('"10.0.0.1:6379" "--name" "laptop" "--trust" "guest"')
    assert "token" not in text
    assert f'"MULM_HOME={home.root}"' in values(text, "Environment")
    assert '"MULM_CLUSTER_PORTS=7000-7199"' in values(text, "Environment")
    assert values(text, "Restart") == ["on-failure"]
    assert in_vain(text) == {exit_code(AuthError("x")), exit_code(ConfigError("x"))}
    for later in (NotRunningError("x"), ConflictError("x")):
        assert exit_code(later) not in in_vain(text)


def in_vain(text: str) -> set[int]:
    return {int(code) for code in values(text, "RestartPreventExitStatus")[0].split()}


def test_it_starts_the_application_as_asked_and_ends_it_in_order(home: Home) -> None:
    text = starting(home)
    assert [values(text, key) for key in ("Type", "RemainAfterExit")] == [["oneshot"], ["yes"]]
    (start,), (stop,) = values(text, "ExecStart"), values(text, "ExecStop")
    assert start.startswith(f'"{sys.executable}" "-c" "from jobs.cli import main; main()" "up"')
    assert stop == start.replace('"up"', '"down"')
    assert starting(home, "10.0.0.1").count('"up" "--lan" "10.0.0.1"') == 1
    told = values(text, "Environment")
    assert f'"MULM_HOME={home.root}"' in told
    for given in ("MULM_HTTP_PORT=8001", "MULM_STORE_URL=file:///mnt/nas"):
        assert f'"{given}"' in told
    assert "MULM_API_KEY" not in text
    assert "MULM_DASHBOARD_PORT" not in text, "what was not given is by default"
    assert values(text, "StandardOutput") == ["null"], "the line to join with has the token"


def test_a_start_is_tried_again_where_that_helps(home: Home) -> None:
    assert in_vain(starting(home)) == {exit_code(ConflictError("x")), exit_code(ConfigError("x"))}
    assert in_vain(starting(home, "auto")) == {exit_code(ConflictError("x"))}
    assert exit_code(PortBusyError("x")) not in in_vain(starting(home))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("odd", ["laptop", 'a "b" 50% $HOME \\ c'])
@pytest.mark.parametrize("unit", [joining, starting])
def test_systemd_takes_it(home: Home, tmp_path: Path, odd: str, unit: Callable[..., str]) -> None:
    text = unit(home, odd)
    assert complaints(tmp_path, text) == ""
    wrong = text.replace("Restart=on-failure", "Restart=now-and-then")
    assert "now-and-then" in complaints(tmp_path, wrong)


def complaints(folder: Path, text: str) -> str:
    unit = folder / "probe.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return "".join(line for line in done.stderr.splitlines() if unit.name in line)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that notes what it is told, and fails at a word in a file."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n'
        f'if grep -qs -- "$2" {tmp_path}/fails; then echo "no bus" >&2; exit 1; fi\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def told(systemctl: Path) -> list[str]:
    lines = (systemctl / "told").read_text().splitlines()
    return [line.removeprefix("--user ") for line in lines]


@pytest.mark.parametrize("name", [join_unit.NAME, up_unit.NAME])
def test_it_is_written_started_and_removed(systemctl: Path, name: str) -> None:
    assert not uninstall(name)
    path = install(name, "a unit")
    assert path == unit_path(name) == systemctl / "config" / "systemd" / "user" / name
    assert path.read_text() == "a unit"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "an address of a store may have keys in it"
    assert uninstall(name)
    assert not path.exists()
    assert told(systemctl) == [
        "daemon-reload", f"enable {name}", f"restart {name}",
        f"disable --now {name}", "daemon-reload",
    ]  # fmt: skip


@pytest.mark.parametrize(("word", "hint"), [("enable", "WSL2"), ("restart", "journalctl")])
def test_without_systemd_nothing_stays_and_the_way_out_is_told(
    systemctl: Path, word: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = up_unit.NAME
    (systemctl / "fails").write_text(f"{word}\n")
    with pytest.raises(ConfigError, match="no bus") as caught:
        install(name, "a unit")
    assert hint in str(caught.value.hint)
    assert not unit_path(name).exists()
    assert f"disable --now {name}" in told(systemctl)
    monkeypatch.setenv("PATH", str(systemctl / "nowhere"))
    with pytest.raises(ConfigError, match="no systemctl"):
        install(name, "a unit")
    assert not unit_path(name).exists()


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    main([*argv, "--json"])
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_up_installs_it_and_down_removes_it(
    systemctl: Path, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULM_HOME", str(home.root))
    path = unit_path(up_unit.NAME)
    assert run(capsys, "up", "--lan", "127.0.0.1", "--install")["unit"] == str(path)
    assert '"up" "--lan" "127.0.0.1"' in path.read_text()
    assert run(capsys, "down") == {"was_up": False}
    assert path.exists(), "the next reboot starts it"
    assert run(capsys, "down", "--uninstall") == {"was_up": False, "was_installed": True}
    assert not path.exists()
    assert run(capsys, "down", "--uninstall") == {"was_up": False, "was_installed": False}


def test_what_is_up_already_is_not_installed_over(
    systemctl: Path, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(_: Home) -> None:
        raise ConflictError("it is up")

    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.setattr("jobs.admission.require_free", up)
    with pytest.raises(SystemExit) as ended:
        main(["up", "--install"])
    assert ended.value.code == exit_code(ConflictError("x"))
    assert not unit_path(up_unit.NAME).exists()
