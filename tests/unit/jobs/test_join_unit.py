"""The unit that joins after a reboot: what it says, that systemd takes it, how it is installed."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.exit_codes import exit_code
from jobs.join_unit import NAME, install, uninstall, unit_path, unit_text
from mulm.errors import AuthError, ConfigError, ConflictError, NotRunningError
from mulm.home import Home


def text_of(home: Home, name: str = "laptop") -> str:
    return unit_text(home, "10.0.0.1:6379", name, "guest", {"MULM_CLUSTER_PORTS": "7000-7199"})


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_it_joins_as_asked_and_again_only_where_that_helps(home: Home) -> None:
    text = text_of(home)
    (start,) = values(text, "ExecStart")
    assert start.startswith(f'"{sys.executable}" "-c" "from jobs.cli import main; main()" "join"')
    assert start.endswith('"10.0.0.1:6379" "--name" "laptop" "--trust" "guest"')
    assert "token" not in text
    assert f'"MULM_HOME={home.root}"' in values(text, "Environment")
    assert '"MULM_CLUSTER_PORTS=7000-7199"' in values(text, "Environment")
    assert values(text, "Restart") == ["on-failure"]
    in_vain = {int(code) for code in values(text, "RestartPreventExitStatus")[0].split()}
    assert in_vain == {exit_code(AuthError("x")), exit_code(ConfigError("x"))}
    for later in (NotRunningError("x"), ConflictError("x")):
        assert exit_code(later) not in in_vain


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("name", ["laptop", 'a "b" 50% $HOME \\ c'])
def test_systemd_takes_it(home: Home, tmp_path: Path, name: str) -> None:
    unit = tmp_path / NAME
    unit.write_text(text_of(home, name))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if NAME in line]
    assert complaints == []
    unit.write_text(text_of(home, name).replace("Restart=on-failure", "Restart=now-and-then"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "now-and-then" in done.stderr


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
    return tmp_path


def test_it_is_written_started_and_removed(systemctl: Path, home: Home) -> None:
    env = {"XDG_CONFIG_HOME": str(systemctl / "config")}
    assert not uninstall(env)
    path = install(text_of(home), env)
    assert path == unit_path(env) == systemctl / "config" / "systemd" / "user" / NAME
    assert path.read_text() == text_of(home)
    assert uninstall(env)
    assert not path.exists()
    assert (systemctl / "told").read_text().splitlines() == [
        "--user daemon-reload", f"--user enable --now {NAME}",
        f"--user disable --now {NAME}", "--user daemon-reload",
    ]  # fmt: skip


def test_without_systemd_nothing_stays_and_the_way_out_is_told(
    systemctl: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"XDG_CONFIG_HOME": str(systemctl / "config")}
    (systemctl / "fails").write_text("enable\n")
    with pytest.raises(ConfigError, match="no bus") as caught:
        install(text_of(home), env)
    assert "WSL2" in str(caught.value.hint)
    assert not unit_path(env).exists()
    monkeypatch.setenv("PATH", str(systemctl / "nowhere"))
    with pytest.raises(ConfigError, match="no systemctl"):
        install(text_of(home), env)
    assert not unit_path(env).exists()
