"""Words beside the bounds of a field, for whoever gives a value outside of them.

Annotates fields of configs and of requests whose bounds a schema library would tell in its own
language: a regular expression, or the members of a union one by one. Invariant: the bounds
themselves stay those of the field, which the description of the API tells to programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Told:
    """What a value must be, said once for whatever is wrong with it."""

    words: str
    """What goes on behind "must": `be 'auto' or a whole number from 1 to 100`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Around the field's own schema."""
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise PydanticCustomError("told", "must {words}", {"words": self.words}) from None


Label = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Told("be text of 1 to 64 characters without control characters, such as the end of a line"),
]
"""What people call something, in one line."""

Sha256 = Annotated[
    str,
    Field(pattern="^[0-9a-f]{64}$"),
    Told("be a SHA-256: 64 hexadecimal digits in small letters"),
]
