from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from mulm.config_words import what_is_wrong


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _is_even(cls, n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (int, "many", "must be a whole number"),
        (int, 1.5, "must be a whole number"),
        (float, "x", "must be a number"),
        (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "must be a finite number"),
        (bool, "perhaps", "must be true or false"),
        (str, 3, "must be text"),
        (Annotated[str, Field(min_length=1)], "", "must have at least 1 character"),
        (Annotated[list[int], Field(min_length=1)], [], "must have at least 1 entry"),
        (Annotated[str, Field(min_length=2)], "a", "must have at least 2 characters"),
        (Annotated[str, Field(max_length=2)], "aaa", "must have at most 2 characters"),
        (tuple[int, ...], 3, "must be a list"),
        (dict[str, int], 3, "must be a section with keys"),
        (Even, 3, "must be a section with keys"),
        (Annotated[list[int], Field(max_length=1)], [1, 2], "must have at most 1 entry"),
        (Annotated[int, Field(gt=0)], 0, "must be more than 0"),
        (Annotated[int, Field(ge=1)], 0, "must be at least 1"),
        (Annotated[int, Field(lt=9)], 9, "must be less than 9"),
        (Annotated[int, Field(le=9)], 10, "must be at most 9"),
        (Literal["a", "b"], "c", "must be 'a' or 'b'"),
        (Even, {"n": 3}, "3 is odd"),
    ],
)
def test_it_is_said_in_our_words(schema: Any, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(schema).validate_python(value)
    assert what_is_wrong(caught.value.errors()[0]) == words


def test_what_is_not_known_is_said_as_the_library_says_it() -> None:
    assert what_is_wrong({"type": "new", "msg": "Value error, odd"}) == "odd"
    assert what_is_wrong({"type": "greater_than", "msg": "too small", "ctx": {}}) == "too small"
