"""Asks the cluster to use a machine no more: `python -m actors.drain ADDRESS MEMBER SECONDS`.

Run by `mulm leave` on the machine that goes, in a process of its own. Runs let their workers
there go after the step that is under way. Exit code 1: the cluster does not know the machine.
"""

from __future__ import annotations

import sys
import time

MEMBER_LABEL = "mulm.member"
"""The label by which a machine that joined is known, whatever Ray calls it."""


def main(gcs_address: str, member: str, seconds: str) -> int:
    """Drain the machine with that label."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=gcs_address)
    for node_id, node in client.get_all_node_info(timeout=10).items():
        if dict(node.labels).get(MEMBER_LABEL) != member or node.state != 0:
            continue
        deadline_ms = int((time.time() + float(seconds)) * 1000)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client.drain_node(node_id.hex(), reason, "its owner wants it back", deadline_ms)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
