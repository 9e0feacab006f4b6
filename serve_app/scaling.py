"""How many engines the work asks for: Serve's autoscaler calls `by_pressure` for each decision.

Named in the deployment's configuration. Delays and bounds are Serve's. Invariant: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESSURE = "pressure"
"""What each engine host records: how many engines its work would fill."""


def by_pressure(context: Any) -> tuple[float, dict[str, Any]]:
    """Serve's hook: engines wanted, and the policy's state, of which there is none.

    Requests that wait at the ingress for a place at an engine fill slots too.
    """
    pressures: Mapping[Any, float] = (context.aggregated_metrics or {}).get(PRESSURE, {})
    n_waiting = context.total_queued_requests or 0.0
    return sum(pressures.values()) + n_waiting / context.config.target_ongoing_requests, {}
