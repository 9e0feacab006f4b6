"""`/api/v1/cluster`: the machines, and what the application is."""

from typing import Any

from fastapi import APIRouter, Request

from actors.let_go import let_go, node_to_let_go
from mulm import __version__
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency

router = APIRouter(
    prefix="/api/v1/cluster", tags=["cluster"], dependencies=ALL_SCOPE, responses=PROBLEMS
)


@router.get("")
def get_cluster(request: Request, control: ControlDependency) -> dict[str, Any]:
    """The application as a whole: its version, what its machines have together, what it takes."""
    living = [node for node in control.nodes() if node["is_alive"]]
    return {
        "object": "cluster",
        "version": __version__,
        "nodes": len(living),
        "cpus": sum(node["cpus"] for node in living),
        "gpus": sum(node["gpus"] for node in living),
        "memory_bytes": sum(node["memory_bytes"] for node in living),
        "max_upload_bytes": request.app.state.max_upload_bytes,
    }


@router.get("/nodes")
def list_nodes(control: ControlDependency) -> dict[str, Any]:
    """The machines, the head first; those that are gone last."""
    return {"object": "list", "data": control.nodes(), "has_more": False}


@router.post("/nodes/{node}/leave", status_code=202)
def let_node_leave(node: str, control: ControlDependency) -> dict[str, Any]:
    """Have a machine leave that came by `mulm join`: by its name, its address, or its id.

    Training there ends after the step that is under way; the machine does not come back by itself.
    """
    found = node_to_let_go(control.nodes(), node)
    let_go(found)
    return {**found, "is_leaving": True}
