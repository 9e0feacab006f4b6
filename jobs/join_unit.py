"""A unit of systemd by which this machine joins again after a reboot: written, started, removed.

Called by `mulm join --install` and `mulm leave --uninstall`. Invariants: a unit of this user alone,
which needs no rights; its text is a pure function of what was asked; the token is in no unit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jobs
from jobs.exit_codes import EXIT_BY_CODE
from mulm.atomic import write_atomic
from mulm.errors import AuthError, ConfigError
from mulm.home import Home

NAME = "mulm-join.service"
_AGAIN_S = 30
_LEAVE_S = 90
"""With the patience of `jobs.join.leave` in it."""
_CALL_TIMEOUT_S = 120.0
_KEPT = ("MULM_CLUSTER_PORTS",)
"""Settings of the one who installs that the unit has too."""
_HINT = (
    "without systemd for users, have your system run this command at login: docs/cluster.md has the"
    " lines for WSL2"
)


def unit_text(home: Home, head: str, name: str, trust: str, env: Mapping[str, str]) -> str:
    """The unit: it joins with the token of the last time, and again where that is not in vain."""
    root = str(Path(jobs.__file__).resolve().parents[1])
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "join", head]
    command += ["--name", name] if name else []
    command += ["--trust", trust]
    kept = {key: env[key] for key in _KEPT if env.get(key)}
    given = {"MULM_HOME": str(home.root), "PYTHONPATH": root, **kept}
    in_vain = sorted({EXIT_BY_CODE[error.code] for error in (AuthError, ConfigError)})
    lines = [
        "[Unit]",
        f"Description=This PC as a part of the µLM application on {_literal(head)}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *(f"Environment={_quoted(f'{key}={text}')}" for key, text in given.items()),
        f"ExecStart={' '.join(_quoted(word, is_command=True) for word in command)}",
        "Restart=on-failure",
        f"RestartSec={_AGAIN_S}",
        f"RestartPreventExitStatus={' '.join(map(str, in_vain))}",
        "KillMode=mixed",
        f"TimeoutStopSec={_LEAVE_S}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def install(text: str, env: Mapping[str, str] = os.environ) -> Path:
    """Write the unit, start it, and have it started at every login from now on; returns its file.

    Raises:
        ConfigError: this user has no systemd; nothing stays behind.
    """
    path = unit_path(env)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    try:
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", NAME)
    except ConfigError:
        path.unlink(missing_ok=True)
        raise
    return path


def uninstall(env: Mapping[str, str] = os.environ) -> bool:
    """End the unit, which leaves, and remove it; returns whether there was one.

    Raises:
        ConfigError: systemd does not do so.
    """
    path = unit_path(env)
    if not path.exists():
        return False
    _systemctl("disable", "--now", NAME)
    path.unlink()
    _systemctl("daemon-reload")
    return True


def unit_path(env: Mapping[str, str] = os.environ) -> Path:
    """Where systemd finds units of this user."""
    base = env.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "systemd" / "user" / NAME


def _systemctl(*words: str) -> None:
    program = shutil.which("systemctl")
    if program is None:
        raise ConfigError("there is no systemctl on this machine", hint=_HINT)
    command: Sequence[str] = [program, "--user", *words]
    try:
        done = subprocess.run(  # noqa: S603 our own words
            command, capture_output=True, text=True, timeout=_CALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"`systemctl --user {words[0]}` does not end", hint=_HINT) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ConfigError(f"`systemctl --user {words[0]}` fails: {said[:200]}", hint=_HINT)


def _literal(text: str) -> str:
    """A text in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _quoted(text: str, *, is_command: bool = False) -> str:
    """A word that systemd takes as it is; in a command `$` would name a variable."""
    escaped = _literal(text).replace("\\", "\\\\").replace('"', '\\"')
    if is_command:
        escaped = escaped.replace("$", "$$")
    return f'"{escaped}"'
