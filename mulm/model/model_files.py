"""A model as files: its shape, its tokenizer, and its weights a tensor at a time.

What export reads from the store and what import puts into it; a model need not fit into memory.
Invariant: names and shapes of the tensors are those of the config, under our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from mulm.config import canonical_json
from mulm.data.tokenizer import Tokenizer
from mulm.errors import CorruptError, DataError
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.model_card import CARD
from mulm.model.safetensors_file import TensorFiles, safetensors_stream
from mulm.model.stored import CONFIG, TOKENIZER, WEIGHTS, model_config, require_whole, save_version
from mulm.model.weights import Shapes, require_fit, shapes, tensor_bytes
from mulm.store import Store


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A context manager that keeps the weights' files open."""

    config: MicroLMConfig
    tokenizer: Tokenizer
    tensors: TensorFiles

    def __enter__(self) -> ModelFiles:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.tensors.__exit__(None, None, None)

    @property
    def dtype(self) -> torch.dtype:
        """That of the embeddings, which speaks for the whole."""
        return self.tensors.specs["embedding.weight"].dtype

    def finite_data(self, name: str) -> bytes:
        """The raw bytes of a tensor of a model that comes from elsewhere.

        Raises:
            DataError: its numbers are whole ones, which mean nothing alone, or one is not finite.
        """
        tensor = self.tensors.read(name)
        if not tensor.is_floating_point():
            raise DataError(
                f"the weights {name!r} are whole numbers ({tensor.dtype}), so they are quantised",
                hint="import the model that they were made from; `mulm compress` quantises it here",
            )
        if not bool(tensor.isfinite().all()):
            raise DataError(
                f"the weights hold numbers that are not finite, in {name!r}",
                hint="the model is broken at its source: take another version of it",
            )
        return tensor_bytes(tensor)


def open_model_files(store: Store, manifest: Manifest) -> ModelFiles:
    """A stored model; every file is checked against its SHA-256 first.

    Raises:
        NotFoundError: a file is missing from the store.
        CorruptError: a file is damaged, or the weights do not fit their config.
        TokenizerMismatchError: the tokenizer is not the one that it was trained with.
        ConflictError: its weights are quantised.
    """
    require_whole(store, manifest, manifest.id)
    config = model_config(store, manifest)
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob(TOKENIZER)))
    tokenizer.require(manifest.tokenizer_fingerprint, manifest.id)
    tensors = TensorFiles([store.path(manifest.blob(WEIGHTS))])
    return checked(ModelFiles(config, tokenizer, tensors), manifest.id)


def checked(files: ModelFiles, what: str) -> ModelFiles:
    """The same files, if weights and tokenizer fit the config; else they are closed.

    Raises:
        CorruptError: they do not fit.
    """
    try:
        n_ids = files.tokenizer.vocab_size
        if n_ids > files.config.vocab_size:
            raise CorruptError(
                f"the tokenizer of {what} does not fit its config:"
                f" it has {n_ids} ids, the model {files.config.vocab_size}",
                hint="take both from the same version",
            )
        require_fit(shapes(files.tensors.specs), expected_shapes(files.config), what)
    except CorruptError:
        files.tensors.__exit__(None, None, None)
        raise
    return files


def expected_shapes(config: MicroLMConfig) -> Shapes:
    """The shape of every tensor of a model of that config."""
    with torch.device("meta"):
        model = MicroLM(config)
    return shapes(model.state_dict())


def store_model_files(
    store: Store,
    files: ModelFiles,
    *,
    config: Mapping[str, Any],
    parents: Mapping[str, str] | None = None,
    licences: tuple[str, ...] = (),
    card: bytes | None = None,
) -> Manifest:
    """Put a model into the store, its numbers as they are; the same one again is the same version.

    Raises:
        NoSpaceError: the disk is full; no version was made.
        DataError: a weight is not a finite number, or a whole one.
    """
    specs = dict(sorted(files.tensors.specs.items()))
    store.require_space(sum(spec.size_bytes for spec in specs.values()))
    blobs = [
        store.put(CONFIG, canonical_json(files.config.to_stored())),
        store.put_stream(WEIGHTS, safetensors_stream(specs, files.finite_data)),
        store.put(TOKENIZER, files.tokenizer.to_bytes()),
    ]
    if card is not None:
        blobs.append(store.put(CARD, card))
    return save_version(
        store, files.config, blobs, files.tokenizer.fingerprint,
        config=config, parents=parents or {}, licences=licences,
    )  # fmt: skip
