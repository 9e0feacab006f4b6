"""The configuration of a training run: the YAML file, `--set` and the HTTP body.

Read once at the entry point; needs no torch. What can be computed is `auto` unless it is set:
`mulm.train.settled` has the same config with all values in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen, parse_config
from mulm.errors import ConfigError, MulmError
from mulm.manifest import Kind
from mulm.model.config import AttentionKernel, MicroLMConfig
from mulm.model.presets import preset
from mulm.refs import check_name, parse_ref
from mulm.train.limits import (
    BatchTokens,
    Count,
    Rows,
    Seed,
    Steps,
    Weight,
    WindowTokens,
    require_micro,
)
from mulm.train.optimizer_config import Auto, OptimizerConfig, ScheduleConfig
from mulm.train.samples_config import SamplesConfig
from mulm.train.stages_config import LoraConfig, PreferenceConfig
from mulm.train.sync_config import DilocoConfig, LowRankConfig, SyncKind

__all__ = [
    "TRAIN_VERSION", "DilocoConfig", "LoraConfig", "OptimizerConfig", "PreferenceConfig",
    "SamplesConfig", "ScheduleConfig", "TrainConfig", "require_one_worker",
]  # fmt: skip

TRAIN_VERSION = 5
"""Counts the changes of the training loop that change what is learned."""
_DEFAULT_PRESET = "demo"
_ANY_VOCABULARY = 256
"""Enough to check a shape before the dataset, and so the vocabulary, is known."""

WireDtype = Literal["fp32", "bf16"]
ExporterName = Literal["wandb", "trackio", "mlflow"]


def _is_default_rank(config: LowRankConfig) -> bool:
    """Left out of what identifies a run: it is younger than runs that are to be found again."""
    return config == LowRankConfig()


class TrainConfig(Frozen):
    """One training run."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"workers", "balance", "shard", "offload", "device", "attention", "compile"}
        | {"activation_checkpointing", "micro_batch_rows", "log_every", "validate_every"}
        | {"checkpoint_every", "keep_checkpoints", "keep_best", "samples", "export_to"}
    )
    """Fields that a resume may change: they have no part in what is learned."""
    REFERENCES: ClassVar[Mapping[str, Kind]] = {
        "dataset": "dataset", "init_from": "model", "teacher": "model",
    }  # fmt: skip

    name: str
    """The model is published under this name."""
    dataset: str
    """A reference: `books`, `books@3` or `books@alias`."""
    preset: str = _DEFAULT_PRESET
    model: dict[str, Any] = {}
    """Fields of the model's shape that differ from the preset; see `MicroLMConfig`."""
    init_from: str | None = None
    """The model whose weights training begins with; its shape is then the shape."""
    teacher: str | None = None
    """The model whose predictions are learned, instead of the text's next tokens alone."""
    preference: PreferenceConfig | None = None
    """Learn which of two answers is better; the dataset's documents are pairs."""
    lora: LoraConfig | None = None
    """Train adapters only, and store the model with them merged."""
    steps: Auto | Steps = "auto"
    batch_tokens: Auto | BatchTokens = "auto"
    """Tokens of one optimizer step, over all workers, padding included."""
    seq_len: Auto | WindowTokens = "auto"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    z_loss: Weight = 0.0
    """Weight of log(Z)^2, which keeps the softmax's normaliser Z near 1; 0 is off."""
    skip_spikes: bool = True
    """Pass over a step whose loss stands far above those before it."""
    seed: Seed = 0
    workers: Count = 1
    balance: bool = True
    """Give faster workers more rows; such a run repeats up to rounding only."""
    wire_dtype: WireDtype = "fp32"
    """Of gradients between workers; `bf16` halves what travels, and rounds."""
    sync: SyncKind = "auto"
    """How workers agree; `auto` measures machines and links, and takes the way that pays."""
    diloco: DilocoConfig = DilocoConfig()
    """For islands that talk now and then."""
    lowrank: LowRankConfig = Field(default=LowRankConfig(), exclude_if=_is_default_rank)
    """For sums of low rank."""
    shard: bool | Literal["auto"] = "auto"
    """Each worker keeps the optimizer states of some parameters only."""
    offload: bool | Literal["auto"] = "auto"
    """Optimizer states lie in the CPU's memory, and visit the GPU during a step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """Of matrix products and the stream; weights and gradients stay in fp32."""
    documents: Literal["joined", "apart"] = "joined"
    """Whether a token sees what stands before its document in the same row."""
    attention: AttentionKernel = "auto"
    """The kernel; the result is the same up to rounding."""
    activation_checkpointing: bool = False
    """Keep the input of each block only and compute the rest again: less memory, more time."""
    compile: Literal["auto"] | bool = "auto"
    """Whether steps are compiled; `auto` where the run is long enough to pay for it."""
    micro_batch_rows: Rows = "auto"
    """Rows that one device runs at once."""
    log_every: Count = 10
    validate_every: Count = 100
    checkpoint_every: Count = 100
    keep_checkpoints: Count = 2
    keep_best: bool = True
    """Beside the newest, the checkpoint with the best validation of its own step stays."""
    samples: SamplesConfig | None = SamplesConfig()
    """What the model is asked while it is trained; null asks nothing."""
    export_to: tuple[ExporterName, ...] = ()
    """Where numbers and samples go beside the run's events and TensorBoard."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        _as_value_error(check_name, name)
        return name

    @field_validator("dataset", "init_from", "teacher")
    @classmethod
    def _is_ref(cls, ref: str | None) -> str | None:
        if ref is not None:
            _as_value_error(parse_ref, ref)
        return ref

    @model_validator(mode="after")
    def _batch_fits(self) -> TrainConfig:
        if "auto" in (self.seq_len, self.batch_tokens):
            return self
        row, what = self.row_tokens, "twice seq_len" if self.preference else "seq_len"
        if self.n_rows * row != self.batch_tokens:
            lower = max(1, self.n_rows) * row
            raise ValueError(
                f"batch_tokens ({self.batch_tokens}) must be a multiple of {what}"
                f" ({row}), such as {lower}"
            )
        if self.workers > self.n_rows:
            raise ValueError(
                f"{self.workers} workers share {self.n_rows} rows of {row} tokens:"
                " use fewer workers or a larger batch_tokens"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> TrainConfig:
        for stage in ("preference", "lora"):
            if getattr(self, stage) and not self.init_from:
                raise ValueError(f"{stage} changes a model: name it as init_from")
        if self.lora and self.precision == "fp8":
            raise ValueError("lora multiplies narrow matrices: leave precision at auto")
        if self.preference and self.teacher:
            raise ValueError("preference and teacher are two stages: leave one of them away")
        if self.preference and self.documents == "apart":
            raise ValueError("preference reads each answer by itself: leave documents away")
        if self.preference and self.attention == "flex":
            raise ValueError("preference reads rows of every length: leave attention at auto")
        if self.z_loss and (self.preference or self.teacher):
            raise ValueError("z_loss is for learning from text: leave it away here")
        if self.sync == "ddp_lowrank" and self.shard is True:
            raise ValueError("shard sends all weights every step: leave it away with ddp_lowrank")
        return self

    @model_validator(mode="after")
    def _shape_is_possible(self) -> TrainConfig:
        if self.init_from and (self.model or self.preset != _DEFAULT_PRESET):
            raise ValueError("init_from gives the shape: leave preset and model away")
        if "vocab_size" in self.model:
            raise ValueError("model.vocab_size is that of the dataset's tokenizer: leave it away")
        shape = self.shape(_ANY_VOCABULARY)
        require_micro(shape)
        longest = shape.max_seq_len
        if self.seq_len != "auto" and longest < self.seq_len:
            raise ValueError(
                f"model.max_seq_len ({longest}) is less than seq_len ({self.seq_len}):"
                " raise it, or leave it away"
            )
        return self

    @property
    def frozen_models(self) -> tuple[str, ...]:
        """The models, by field, that are read beside the one that is trained."""
        has_reference = self.preference is not None and self.lora is None
        teacher = ("teacher",) if self.teacher else ()
        return (*teacher, "init_from") if has_reference else teacher

    @property
    def row_tokens(self) -> int:
        """Tokens of a row; a pair of answers is one row."""
        return _known(self.seq_len) * (2 if self.preference else 1)

    @property
    def n_rows(self) -> int:
        """Rows of one global batch."""
        return _known(self.batch_tokens) // self.row_tokens

    def shape(self, vocab_size: int) -> MicroLMConfig:
        """The model's shape for a vocabulary.

        Raises:
            UnknownNameError: no such preset, or no such field in `model`.
            ConfigError: the fields do not fit together.
        """
        chosen = preset(self.preset, vocab_size).model_dump()
        if self.seq_len != "auto":
            chosen["max_seq_len"] = max(chosen["max_seq_len"], self.seq_len)
        values = chosen | self.model | {"vocab_size": vocab_size}
        return parse_config(_Shaped, {"model": values}).model


def require_one_worker(config: TrainConfig) -> None:
    """For training in one process.

    Raises:
        ConfigError: more workers were asked for.
    """
    if config.workers != 1:
        raise ConfigError(
            f"workers: {config.workers} need a cluster; one process is one worker",
            hint="set workers: 1, or run `mulm up` and `mulm train`",
        )


class _Shaped(Frozen):
    """So that a mistake in the shape is reported as one in `model`."""

    model: MicroLMConfig


def _known(value: Auto | int) -> int:
    assert value != "auto", "settle the config first"
    return value


def _as_value_error(check: Callable[[str], object], text: str) -> None:
    """Let pydantic say where the mistake stands."""
    try:
        check(text)
    except MulmError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
