"""What clients are told of a deployment, and of each of its revisions, as JSON.

Used by the routes of deployments. Pure but for how it stands. Invariant: a revision that this
version of the application cannot read is told too, as failed.
"""

from typing import Any

from mulm.records import Deployment
from serve_app.control_api.served_state import ServedState
from serve_app.deployment_spec import DeploymentSpec, spec_of, unread


def described(served: ServedState, found: Deployment) -> dict[str, Any]:
    """A deployment as it is wanted and as it stands."""
    if why := unread(found):
        return _plain(found) | {"status": "failed", "message": why}
    spec = spec_of(found)
    status, message = served.status(found.name, found.revision)
    return _plain(found) | {
        "model": spec.args.model,
        "serves": served.serves(found.name),
        "status": status,
        "message": message,
        "traffic": _traffic(spec),
        "canary": spec.canary
        and spec.canary.model_dump(mode="json") | {"seen": served.canary(found.name)},
        "settings": spec.args.model_dump(mode="json", exclude={"model", "served_name"}),
        "replicas": served.replicas(found.name),
    }


def _plain(found: Deployment) -> dict[str, Any]:
    """What is told of a revision that this version of the application cannot read, too."""
    return {
        "id": found.name,
        "object": "deployment",
        "model": None,
        "serves": {},
        "revision": found.revision,
        "created_at": int(found.created_s),
        "updated_at": int(found.set_s),
        "reason": found.reason,
        "traffic": [],
        "canary": None,
        "settings": {},
        "replicas": [],
    }


def _traffic(spec: DeploymentSpec) -> list[dict[str, Any]]:
    if spec.canary is None:
        return [{"model": spec.args.model, "weight": 100.0}]
    rest = 100.0 - spec.canary.weight
    return [
        {"model": spec.args.model, "weight": rest},
        {"model": spec.canary.model, "weight": spec.canary.weight},
    ]


def revision_id(each: Deployment) -> str:
    """What a page of the history ends with."""
    return f"{each.name}#{each.revision}"


def revision(each: Deployment) -> dict[str, Any]:
    """One line of the history."""
    spec = spec_of(each) if each.spec and not unread(each) else None
    return {
        "id": revision_id(each),
        "object": "deployment.revision",
        "revision": each.revision,
        "set_at": int(each.set_s),
        "reason": each.reason,
        "model": spec.args.model if spec else None,
        "canary": spec.canary.model if spec and spec.canary else None,
    }
