"""Units of systemd of this user: written, started, removed.

`jobs.cli_join` and `jobs.cli_up` have one each. Invariants: a unit of this user alone, which needs
no rights; where systemd does not take it, nothing stays behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jobs
from jobs.exit_codes import EXIT_BY_CODE
from mulm.atomic import write_atomic
from mulm.errors import ConfigError, MulmError
from mulm.home import Home

AGAIN_S = 30
_CALL_TIMEOUT_S = 330.0
"""With the time in it that an application takes to start."""
_HINT = (
    "without systemd for users, have your system run this command at login: docs/cluster.md has the"
    " lines for WSL2"
)


def unit_text(
    about: str,
    home: Home,
    env: Mapping[str, str],
    service: Sequence[str],
    in_vain: Iterable[type[MulmError]],
) -> str:
    """A unit that is started at every login, and again where that is not in vain.

    Args:
        about: What it is.
        home: The installation.
        env: What it is told beside its home.
        service: Further lines, the commands among them.
        in_vain: The errors after which it does not begin again.
    """
    root = str(Path(jobs.__file__).resolve().parents[1])
    given = {"MULM_HOME": str(home.root), "PYTHONPATH": root, **env}
    codes = sorted({EXIT_BY_CODE[error.code] for error in in_vain})
    lines = [
        "[Unit]",
        f"Description={_literal(about)}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *(f"Environment={_quoted(f'{key}={text}')}" for key, text in given.items()),
        *service,
        "Restart=on-failure",
        f"RestartSec={AGAIN_S}",
        f"RestartPreventExitStatus={' '.join(map(str, codes))}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def command_line(*words: str) -> str:
    """The `mulm` command of this environment with these words, as a unit writes it."""
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *words]
    return " ".join(_quoted(word, is_command=True) for word in command)


def install(name: str, text: str, env: Mapping[str, str] = os.environ) -> Path:
    """Write the unit, start it, and have it started at every login from now on; returns its file.

    Raises:
        ConfigError: this user has no systemd, or it does not start; nothing stays behind.
    """
    path = unit_path(name, env)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode(), mode=0o600)
    try:
        _systemctl("daemon-reload")
        _systemctl("enable", name)
        _systemctl("restart", name, hint=f"`journalctl --user -u {name}` says why")
    except ConfigError:
        with suppress(ConfigError):
            _systemctl("disable", "--now", name)
        path.unlink(missing_ok=True)
        raise
    return path


def uninstall(name: str, env: Mapping[str, str] = os.environ) -> bool:
    """End the unit and remove it; returns whether there was one.

    Raises:
        ConfigError: systemd does not do so.
    """
    path = unit_path(name, env)
    if not path.exists():
        return False
    _systemctl("disable", "--now", name)
    path.unlink()
    _systemctl("daemon-reload")
    return True


def unit_path(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Where systemd finds units of this user."""
    base = env.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "systemd" / "user" / name


def _systemctl(*words: str, hint: str = _HINT) -> None:
    program = shutil.which("systemctl")
    if program is None:
        raise ConfigError("there is no systemctl on this machine", hint=_HINT)
    command: Sequence[str] = [program, "--user", *words]
    try:
        done = subprocess.run(  # noqa: S603 our own words
            command, capture_output=True, text=True, timeout=_CALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"`systemctl --user {words[0]}` does not end", hint=hint) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ConfigError(f"`systemctl --user {words[0]}` fails: {said[:200]}", hint=hint)


def _literal(text: str) -> str:
    """A text in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _quoted(text: str, *, is_command: bool = False) -> str:
    """A word that systemd takes as it is; in a command `$` would name a variable."""
    escaped = _literal(text).replace("\\", "\\\\").replace('"', '\\"')
    if is_command:
        escaped = escaped.replace("$", "$$")
    return f'"{escaped}"'
