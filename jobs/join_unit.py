"""The unit of systemd by which this machine joins again after a reboot.

Called by `mulm join --install` and `mulm leave --uninstall`. Invariants: its text is a pure
function of what was asked; the token is in no unit.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.user_unit import command_line, unit_text
from mulm.errors import AuthError, ConfigError
from mulm.home import Home

NAME = "mulm-join.service"
_LEAVE_S = 90
"""With the patience of `jobs.join.leave` in it."""
_KEPT = ("MULM_CLUSTER_PORTS",)
"""Settings of the one who installs that the unit has too."""


def join_unit(home: Home, head: str, name: str, trust: str, env: Mapping[str, str]) -> str:
    """It joins with the token of the last time."""
    words = ["join", head, *(["--name", name] if name else []), "--trust", trust]
    return unit_text(
        f"This PC as a part of the µLM application on {head}",
        home,
        {key: env[key] for key in _KEPT if env.get(key)},
        [
            f"ExecStart={command_line(*words)}",
            "KillMode=mixed",
            f"TimeoutStopSec={_LEAVE_S}",
        ],
        in_vain=(AuthError, ConfigError),
    )
