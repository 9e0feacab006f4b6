"""The unit of systemd by which the application comes up after a reboot.

Called by `mulm up --install` and `mulm down --uninstall`. It runs `mulm up`, whose processes stay,
and `mulm down` when the machine goes down. Invariants: its text is a pure function of what was
asked; the line to join with, which has the token, does not get into the system's log.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.user_unit import command_line, unit_text
from mulm.errors import ConfigError, ConflictError, MulmError
from mulm.home import Home
from mulm.settings import Settings
from mulm.store import STORE_URL

NAME = "mulm-up.service"
_START_S = 300
_STOP_S = 120
"""With the time in it that runs have for a checkpoint."""


def up_unit(home: Home, settings: Settings, lan: str | None, env: Mapping[str, str]) -> str:
    """It starts the application with the settings that were given to who installs it.

    Args:
        home: The installation.
        settings: Those of `env`, with whole paths.
        lan: What was said with `--lan`: an address, or "auto".
        env: The variables.
    """
    kept = {key: text for key, text in settings.to_env().items() if env.get(key)}
    kept |= {STORE_URL: env[STORE_URL]} if env.get(STORE_URL) else {}
    # A network may be there later than this; who finds the application up has nothing to do.
    in_vain: list[type[MulmError]] = [ConflictError, *([] if lan else [ConfigError])]
    return unit_text(
        f"The µLM application of {home.root}",
        home,
        kept,
        [
            "Type=oneshot",
            "RemainAfterExit=yes",
            f"ExecStart={command_line('up', *(['--lan', lan] if lan else []))}",
            f"ExecStop={command_line('down')}",
            "StandardOutput=null",
            f"TimeoutStartSec={_START_S}",
            f"TimeoutStopSec={_STOP_S}",
        ],
        in_vain,
    )
