"""Every operation of the description is asked whatever it allows, and answers as it says.

A long profile: `MULM_API_EXAMPLES=500` before pytest.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mulm.messages import GenerateRequest, TokenChunk
from serve_app.service import Fixed
from tests.unit.serve_app.control_api.conftest import KEY

pytestmark = pytest.mark.slow

N_EXAMPLES = int(os.environ.get("MULM_API_EXAMPLES", "20"))
ROOT = Path(__file__).parents[4]
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_bytes())
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
HEADERS = {"Authorization": f"Bearer {KEY}", "Host": "127.0.0.1"}


class Embedding:
    """The scripted engine, which knows vectors too."""

    def __init__(self, scripted: Any) -> None:
        self._scripted = scripted
        self.is_ready, self.holds = scripted.is_ready, scripted.holds

    async def generate(self, model_id: str, request: GenerateRequest) -> Any:
        if request.is_embedding:
            yield TokenChunk(request.request_id, (), "stop", embedding=(3.0, 4.0))
            return
        async for chunk in self._scripted.generate(model_id, request):
            yield chunk


@pytest.fixture
def described(api: Any, versions: Any, served: Any, scripted: Any, ledger: Any) -> Any:
    """The application with something of everything, and what it says of itself."""
    scripted.groups = [[40], [41]]
    tiny = replace(served, engine=Embedding(scripted))
    api.app.state.service.deployments = {"tiny": Fixed(tiny)}
    ledger.create_run("run_1", "train", {"name": "x"})
    ledger.set_phase("run_1", "succeeded")
    return schemathesis.openapi.from_asgi("/openapi.json", api.app, headers=HEADERS)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_it_answers_as_it_says(described: Any, path: str, method: str) -> None:
    @given(case=described[path][method].as_strategy())
    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def ask(case: Any) -> None:
        case.validate_response(case.call(headers=HEADERS), checks=CHECKS)

    ask()
