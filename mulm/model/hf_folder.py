"""Export to a folder that transformers, vLLM and their kin load.

    config.json generation_config.json        shape, and what ends a text
    model.safetensors                         weights; in parts with an index above a size
    tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja
    README.md                                 the model card

Invariants: the folder has its name when it is whole, or does not exist; the same model gives the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mulm.atomic import atomic_file, atomic_folder, require_absent, write_atomic
from mulm.chat import exported_template
from mulm.data.tokenizer import Tokenizer
from mulm.errors import DataError
from mulm.model.hf import tensor_names, to_hf_config, token_ids
from mulm.model.model_card import CARD
from mulm.model.model_files import ModelFiles
from mulm.model.safetensors_file import (
    TensorSpec,
    safetensors_stream,
    split_by_size,
    total_bytes,
)
from mulm.model.weights import tensor_bytes

MAX_PART_BYTES = 5_000_000_000
_METADATA = {"format": "pt"}


def write_hf_folder(
    out: Path,
    files: ModelFiles,
    card: bytes,
    *,
    dtype: torch.dtype | None = None,
    template: str | None = None,
    max_part_bytes: int = MAX_PART_BYTES,
) -> None:
    """Write a model under `out`.

    Args:
        out: A folder that does not exist yet.
        files: The model.
        card: The model card.
        dtype: Type of the weights; None keeps each as it is stored.
        template: The chat template; None is the one with which we serve.
        max_part_bytes: Larger weights are cut into files of at most this size.

    Raises:
        ConflictError: `out` exists.
        ConfigError: the shape has no name there.
        DataError: a weight is too large for fp16.
        NoSpaceError: the disk is full; nothing is left behind.
    """
    require_absent(out)
    template = exported_template(files.tokenizer) if template is None else template
    config = to_hf_config(files.config, files.tokenizer, dtype or files.dtype)
    texts = {CARD: card, "chat_template.jinja": template.encode()}
    texts |= {"config.json": _json(config), "tokenizer.json": files.tokenizer.to_bytes()}
    texts |= {"generation_config.json": _json(token_ids(files.tokenizer))}
    texts |= _tokenizer_texts(files, template)
    with atomic_folder(out) as folder:
        for name, content in texts.items():
            write_atomic(folder / name, content)
        _write_weights(folder, files, dtype, max_part_bytes)


def converted_data(files: ModelFiles, name: str, dtype: torch.dtype) -> bytes:
    """The bytes of one tensor as another type.

    Raises:
        DataError: a number does not fit into it.
    """
    tensor = files.tensors.read(name)
    if tensor.dtype == dtype:
        return tensor_bytes(tensor)
    converted = tensor.to(dtype)
    if not bool(converted.isfinite().all()):
        raise DataError(
            f"the weights {name!r} hold numbers beyond the range of {dtype}",
            hint="export as bf16, which has the range of fp32",
        )
    return tensor_bytes(converted)


def _write_weights(
    folder: Path, files: ModelFiles, dtype: torch.dtype | None, max_part_bytes: int
) -> None:
    our_name = {theirs: ours for ours, theirs in tensor_names(files.config).items()}
    stored = {theirs: files.tensors.specs[our_name[theirs]] for theirs in sorted(our_name)}
    specs = {n: TensorSpec(dtype or spec.dtype, spec.shape) for n, spec in stored.items()}
    parts = split_by_size(specs, max_part_bytes)
    part_by_name: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = "model.safetensors"
        if len(parts) > 1:
            name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        part_by_name |= dict.fromkeys(part, name)
        with atomic_file(folder / name) as file:
            for chunk in safetensors_stream(
                part, lambda n: converted_data(files, our_name[n], specs[n].dtype), _METADATA
            ):
                file.write(chunk)
    if len(parts) > 1:
        metadata = {"total_size": total_bytes(specs.values())}
        index = {"metadata": metadata, "weight_map": part_by_name}
        write_atomic(folder / "model.safetensors.index.json", _json(index))


def _tokenizer_texts(files: ModelFiles, template: str) -> dict[str, bytes]:
    names = _special_names(files.tokenizer)
    config = {
        # The class that takes tokenizer.json as it is, whatever the model is called.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": files.config.max_seq_len,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
        **names,
    }
    return {"tokenizer_config.json": _json(config), "special_tokens_map.json": _json(names)}


def _special_names(tokenizer: Tokenizer) -> dict[str, str]:
    name_of = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    return {
        "bos_token": name_of[tokenizer.end_of_text_id],
        "eos_token": name_of[tokenizer.turn_end_id],
        "pad_token": name_of[tokenizer.pad_id],
    }


def _json(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
