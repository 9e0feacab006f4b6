"""Every operation is asked whatever its description allows, and what it does not; it answers as it
says, and nobody without a key.

A long profile: `MULM_API_EXAMPLES=500` before pytest; `MULM_API_SEED=2` asks other things.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mulm.messages import GenerateRequest, TokenChunk
from serve_app.auth import OPEN_PATHS
from serve_app.key_text import FOR_KEY
from serve_app.service import Fixed
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

pytestmark = pytest.mark.slow

N_EXAMPLES = int(os.environ.get("MULM_API_EXAMPLES", "20"))
N_STRANGERS = max(1, N_EXAMPLES // 4)
SEED = int(os.environ.get("MULM_API_SEED", "0"))
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
FOR_INFERENCE = {("/api/v1/feedback", "post")}
OPERATIONS_OF_ALL = [e for e in OPERATIONS if "/api/" in e[0] and e not in FOR_INFERENCE]
HEADERS = {"Authorization": f"Bearer {KEY}", "Host": "127.0.0.1"}


KEYS_OF_NOBODY = st.none() | st.sampled_from(
    ["", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer null"]
)
HEADERS_OF_NOBODY = st.dictionaries(
    st.sampled_from(["X-API-Key", "X-Forwarded-User", FOR_KEY, "Cookie", "X-Original-URL"]),
    st.sampled_from([KEY, "first", "key_1", f"key={KEY}", "/healthz"]),
    max_size=2,
)


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
    document = schemathesis.openapi.from_dict(DOCUMENT)  # which is what the code says: a test
    document.app, document.location = api.app, "/openapi.json"
    return document


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_it_answers_as_it_says(
    described: Any, path: str, method: str, mode: GenerationMode
) -> None:
    operation = described[path][method]
    if mode is GenerationMode.NEGATIVE and not has_input(operation):
        pytest.skip("nothing that it takes can be wrong")

    def check(case: Any) -> None:
        case.validate_response(case.call(headers=HEADERS), checks=CHECKS)

    ask(operation.as_strategy(mode), check)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_nobody_is_let_in_without_a_key(
    described: Any, ledger: Any, path: str, method: str
) -> None:
    if path in OPEN_PATHS:
        pytest.skip("open to all")
    before = ledger.last_happening()

    def check(case: Any, authorization: str | None, others: dict[str, str]) -> None:
        headers = {"Host": "127.0.0.1"} | others
        if authorization is not None:
            headers["Authorization"] = authorization
        reply = case.call(headers=headers)
        assert reply.status_code == 401, (authorization, others, reply.text)

    cases = described[path][method].as_strategy()
    ask(cases, check, KEYS_OF_NOBODY, HEADERS_OF_NOBODY, n_examples=N_STRANGERS)
    assert ledger.last_happening() == before, "nothing was changed"


@pytest.mark.parametrize(("path", "method"), OPERATIONS_OF_ALL)
def test_a_key_for_inference_has_no_business_here(
    described: Any, ledger: Any, path: str, method: str
) -> None:
    before = ledger.last_happening()
    headers = HEADERS | {"Authorization": f"Bearer {WEAK_KEY}"}

    def check(case: Any) -> None:
        reply = case.call(headers=headers)
        assert reply.status_code in (400, 403), reply.text

    ask(described[path][method].as_strategy(), check, n_examples=N_STRANGERS)
    assert ledger.last_happening() == before, "nothing was changed"


def has_input(operation: Any) -> bool:
    """Whether an operation takes anything."""
    raw = DOCUMENT["paths"][operation.path][operation.method.lower()]
    return bool(raw.get("parameters") or raw.get("requestBody"))


def ask(cases: Any, check: Any, *more: Any, n_examples: int = N_EXAMPLES) -> None:
    """Check cases that are drawn, and what is drawn beside them."""

    @given(drawn=st.tuples(cases, *more))
    @settings(
        max_examples=n_examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not SEED,
        database=None,
    )
    def checked(drawn: tuple[Any, ...]) -> None:
        check(*drawn)

    (seed(SEED)(checked) if SEED else checked)()
