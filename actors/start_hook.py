"""Leaves out what a head on one machine does not need; Ray calls it between reading and starting.

Named in `RAY_START_HOOK` by `actors.head`. The server for remote `ray://` clients costs 1.4 s of
CPU time and 90 MB, and nobody here speaks to it.
"""

from __future__ import annotations

from typing import Any

_RANGE_OF_RAY = (10002, 19999)


def trim(parameters: Any, is_head: bool) -> None:
    """Take the client server out of the parameters of `ray start`."""
    if is_head:
        parameters.ray_client_server_port = None
    # Workers take free ports, where no range is named: Ray's own would bar 10002 to 19999.
    if (parameters.min_worker_port, parameters.max_worker_port) == _RANGE_OF_RAY:
        parameters.min_worker_port = parameters.max_worker_port = None
