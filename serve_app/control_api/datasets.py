"""`/api/v1/datasets`: build them; what is in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from starlette.responses import JSONResponse

from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency
from serve_app.control_api.runs import DONE_BEFORE, started_run

router = APIRouter(
    prefix="/api/v1/datasets", tags=["datasets"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

RecipeBody = Annotated[dict[str, Any], Body(max_length=64)]
"""A recipe as in a file; checked where all recipes are, so that errors name the nearest key."""


@router.post("", status_code=202, responses={200: DONE_BEFORE})
def create_dataset(recipe: RecipeBody, control: ControlDependency) -> JSONResponse:
    """Build a dataset of uploaded files: a run of the kind `prepare`, to which `Location` leads."""
    return started_run(control, "prepare", recipe)
