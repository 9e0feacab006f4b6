"""What the running application is reached by: `MULM_HOME/cluster.json`, and the way to read it.

Written by `actors.cluster.up`, read by everybody who wants to reach it. Light: imports no Ray.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from mulm.config import Frozen
from mulm.errors import NotRunningError
from mulm.home import Home

MARKER = "MULM_CLUSTER"
"""Every process of a cluster carries its id in this environment variable."""

_HINT = "run `mulm up` first"


class ClusterInfo(Frozen):
    """One running application on this machine."""

    id: str
    gcs_address: str
    dashboard_url: str
    http_host: str
    http_port: int
    pid: int
    """Of the process whose end is the end of the cluster."""
    temp_dir: str
    tls_cert: str | None = None
    """The certificate that the HTTP API shows, where it speaks HTTPS."""

    @property
    def is_open(self) -> bool:
        """Whether other machines may join it."""
        return not self.gcs_address.startswith("127.")

    @property
    def api_url(self) -> str:
        """Where the HTTP API is."""
        host = "127.0.0.1" if self.http_host in {"0.0.0.0", "::"} else self.http_host  # noqa: S104
        scheme = "https" if self.tls_cert else "http"
        return f"{scheme}://{host}:{self.http_port}"


def read_info(home: Home) -> ClusterInfo | None:
    """What the file says, whether or not it is true any more; None without a readable file."""
    try:
        return ClusterInfo.model_validate(json.loads(home.cluster.read_bytes()))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, ValidationError):
        return None


def read_token(home: Home) -> str:
    """The token that Ray's APIs ask for.

    Raises:
        NotRunningError: there is none, so nothing was ever started here.
    """
    try:
        return home.ray_token.read_text().strip()
    except FileNotFoundError:
        raise NotRunningError("the application is not up", hint=_HINT) from None


def ray_env(home: Home, *, is_open: bool | None = None) -> dict[str, str]:
    """What every process that speaks to Ray needs in its environment.

    `is_open` is whether other machines may join the cluster; if not given, that of the one that is
    up.
    """
    if is_open is None:
        info = read_info(home)
        is_open = info is not None and info.is_open
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Named for other systems. Servers: every one of the node stays on loopback. Clients: the
        # address 127.0.0.1 is taken as it is, not replaced by the machine's on the network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1" if is_open else "0",
        "MULM_HOME": str(home.root),
    }
