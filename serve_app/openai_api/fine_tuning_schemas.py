"""The body of `POST /v1/fine_tuning/jobs`, as far as it means something here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mulm.field_words import Told
from mulm.train.fine_tune import BatchRows, Epochs, RateMultiplier
from serve_app.openai_api.schemas import Body, Metadata, NeutralList

Suffix = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$"),
    Told("be 1 to 40 small letters, digits, `.`, `_` and `-`, a letter or a digit first"),
]


class Hyperparameters(Body):
    """What is not given is chosen by the sizes of model and files."""

    n_epochs: Epochs = "auto"
    batch_size: BatchRows = "auto"
    learning_rate_multiplier: RateMultiplier = "auto"


class Supervised(Body):
    """Learning what the assistant says."""

    hyperparameters: Hyperparameters | None = None


class Method(Body):
    """How it is learned; of OpenAI's methods the supervised one."""

    type: str
    supervised: Supervised | None = None

    @model_validator(mode="after")
    def _is_ours(self) -> Method:
        if self.type != "supervised":
            raise PydanticCustomError(
                "unsupported_parameter", "can only be supervised here", {"param": ("type",)}
            )
        return self


class FineTuneBody(Body):
    """A model, a file of conversations, and how to learn them."""

    model: Annotated[str, Field(max_length=128)]
    training_file: Annotated[str, Field(max_length=128)]
    validation_file: Annotated[str, Field(max_length=128)] | None = None
    suffix: Suffix | None = None
    """Stands behind the model's name."""
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    metadata: Metadata = None
    integrations: NeutralList = None
    lora: bool = False
    """Ours: learn adapters, which can be served beside the model."""

    @model_validator(mode="before")
    @classmethod
    def _in_one_place(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") and values.get("hyperparameters"):
            raise PydanticCustomError(
                "invalid_value", "stand in method or beside it, not in both",
                {"param": ("hyperparameters",)},
            )  # fmt: skip
        return values

    @property
    def chosen(self) -> Hyperparameters:
        """Wherever they stand."""
        supervised = self.method.supervised if self.method else None
        inner = supervised.hyperparameters if supervised else None
        return inner or self.hyperparameters or Hyperparameters()
