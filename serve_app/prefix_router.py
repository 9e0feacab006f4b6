"""Sends requests that begin alike to the same engine, where their pages are kept.

Named in the deployment's configuration; runs in the ingress, on Serve's router. A request without a
key, or whose home is full, goes to the less busy of two engines. Invariant: which engine is the
home of a key depends on the key and the engines alone, so all ingresses agree, and an engine that
comes or goes moves few keys.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

from serve_app.prefix_key import home_of


class PrefixRouter(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]
    """Serve's router, with a home for each key."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Serve's hook: replicas to try, in order."""
        others = await super().choose_replicas(candidate_replicas, pending_request)
        key = pending_request.metadata.session_id if pending_request is not None else ""
        if not key or len(candidate_replicas) < 2:
            return others  # type: ignore[no-any-return]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        home = by_name[home_of(key, by_name)]
        n_ongoing = self.replica_queue_len_cache.get(home.replica_id) or 0
        # Beyond its slots, which are half of what it takes, a home is worth less than time.
        return others if n_ongoing >= home.max_ongoing_requests // 2 else [[home], *others]
