"""`/api/v1/feedback`: what people think of answers, kept for a model that learns of it.

Whoever may have a model answer may judge its answers; what all have said is read by keys of the
scope `all` alone, since conversations of others stand in it. Invariant: what is acknowledged holds
the whole conversation in the canonical form, so that a preference dataset can be made of it, and
weights that have answered under that name.
"""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.config import Frozen, canonical_json
from mulm.errors import ConfigError
from mulm.field_words import Label, Told
from mulm.records import Answered, Thumb
from mulm.refs import new_id
from mulm.tool_turns import check_turns
from serve_app.auth import ForbiddenError
from serve_app.caller import Caller, CallerDependency
from serve_app.control_api.answerers import require_answerer, require_name
from serve_app.control_api.control import PROBLEM, PROBLEMS, Control, ControlDependency, require_all
from serve_app.control_api.feedback_words import described, in_a_line
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, page
from serve_app.openai_api.chat import to_message
from serve_app.openai_api.chat_schemas import ChatMessage
from serve_app.openai_api.schemas import MAX_TURNS
from serve_app.service import ServiceDependency

router = APIRouter(prefix="/api/v1/feedback", tags=["feedback"], responses=PROBLEMS)

MAX_CHARS = 1 << 18
"""Of the JSON of a conversation and its answer: more than the largest window holds."""
MAX_COMMENT_CHARS = 4000

_READERS = [Depends(require_all)]
_GIVEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "This key had judged this answer before: the new verdict holds."},
    403: {
        "description": "A key for other models, or one that has judged as many answers as it may.",
        "content": PROBLEM,
    },
}

_OF_A_MODEL = "mdl_[0-9a-z]{1,24}"
ModelId = Annotated[
    str,
    Field(pattern=rf"^{_OF_A_MODEL}(\+{_OF_A_MODEL})?$"),
    Told("be the `system_fingerprint` of an answer, such as mdl_0123456789ab"),
]
"""With that of an adapter behind it, where one stood beside."""
AnswerId = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern="^[!-~]+$"),
    Told("be the `id` of an answer: 1 to 64 visible ASCII characters without spaces"),
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]


class NewFeedback(Frozen):
    """An answer, what it answered, and whether it is good."""

    model: Label
    """What clients call the model that has answered."""
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_TURNS)]
    """What was sent to it, as it was sent."""
    answer: Text
    verdict: Thumb
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARS)] = ""
    model_id: ModelId | None = None
    """The `system_fingerprint` of the answer: which weights have given it."""
    answer_id: AnswerId | None = None
    """The `id` of the answer: tells it apart from another one of the same words."""

    @property
    def answered(self) -> Answered:
        """What is judged.

        Raises ConfigError where calls of tools and results do not fit, or it is too much to keep.
        """
        turns = check_turns([to_message(said) for said in self.messages])
        messages = tuple(turn.model_dump(mode="json") for turn in turns)
        answered = Answered(self.model, messages, self.answer, self.model_id, self.answer_id)
        n_chars = len(canonical_json(asdict(answered)).decode())
        if n_chars > MAX_CHARS:
            raise ConfigError(
                f"the conversation and its answer are {n_chars:,} characters of JSON",
                hint=f"{MAX_CHARS:,} are kept at most",
                param="messages",
            )
        return answered


@router.post("", status_code=201, responses=_GIVEN, response_model=None)
def give_feedback(
    body: NewFeedback,
    control: ControlDependency,
    service: ServiceDependency,
    caller: CallerDependency,
    once: OnceDependency,
) -> Response:
    """Say whether an answer is good; said again of the same answer, the latest verdict holds."""
    if not caller.key.may_ask(body.model):
        raise ForbiddenError(
            f"the key {caller.key.name!r} may not ask {body.model!r}",
            hint="judge answers of models that the key is for",
            param="model",
        )

    def give(*_claim: object) -> JSONResponse:
        """Also where another process did it before: twice is once."""
        require_name(service, control.facts, body.model, caller.key)
        if body.model_id is not None:
            require_answerer(service, control.facts, body.model, body.model_id)
        return _given(body, control, caller)

    return once.answer(give, give)


def _given(body: NewFeedback, control: Control, caller: Caller) -> JSONResponse:
    fresh_id = new_id("fb")
    found = control.facts.give_feedback(
        fresh_id, caller.key.id, body.answered, body.verdict, body.comment
    )
    location = {"location": f"/api/v1/feedback/{found.id}"}
    return JSONResponse(described(found), 201 if found.id == fresh_id else 200, location)


@router.get("", dependencies=_READERS)
def list_feedback(
    control: ControlDependency,
    model: Annotated[str | None, Query(max_length=128)] = None,
    model_id: Annotated[str | None, Query(max_length=128)] = None,
    verdict: Thumb | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, Any]:
    """What was said of answers, the newest first, without the conversations.

    Of a model by the name that clients call it, of weights by their id, of a verdict.
    """
    found = control.facts.feedback(model, model_id, verdict, after, limit + 1)
    return page(found, limit, in_a_line)


@router.get("/{feedback_id}", dependencies=_READERS)
def get_feedback(feedback_id: str, control: ControlDependency) -> dict[str, Any]:
    """What was said of one answer, with the whole conversation."""
    return described(control.facts.one_feedback(feedback_id))


@router.delete("/{feedback_id}", status_code=204, dependencies=_READERS)
def delete_feedback(feedback_id: str, control: ControlDependency) -> Response:
    """Forget what was said of one answer, and the conversation with it."""
    control.facts.remove_feedback(feedback_id)
    return Response(status_code=204)
