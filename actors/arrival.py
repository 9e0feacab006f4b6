"""Waits until the head lists a machine that joins: `python -m actors.arrival`.

Run by `jobs.membership` on the machine that joins, in a process of its own. Exit code 0: the head
lists it as alive; 1: it does not, and what the head says of it is printed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from actors.drain import MEMBER_LABEL

_ASK_S = 5.0
_POLL_S = 0.2
_ALIVE = 0


def main(gcs_address: str, member: str, seconds: str) -> int:
    """Wait for the machine with that label; 0 seconds is one look."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=gcs_address)
    end_s = time.monotonic() + float(seconds)
    while True:
        nodes = _nodes_of(client, member)
        if any(node.state == _ALIVE for node in nodes):
            return 0
        if time.monotonic() >= end_s:
            print(*(node.death_info.reason_message for node in nodes[-1:]), end="")
            return 1
        time.sleep(_POLL_S)


def _nodes_of(client: Any, member: str) -> list[Any]:
    """A machine that came back has several, oldest first."""
    known = client.get_all_node_info(timeout=_ASK_S).values()
    nodes = [node for node in known if dict(node.labels).get(MEMBER_LABEL) == member]
    return sorted(nodes, key=lambda node: int(node.start_time_ms))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
