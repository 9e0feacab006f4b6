"""Export of one model: a Hugging Face folder or a GGUF file.

Called by `jobs.exchange`. Invariant: names and template are checked before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mulm.chat import exported_template
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, NotFoundError, UnknownNameError
from mulm.manifest import Manifest
from mulm.model.chat_template import SAMPLE, render_template
from mulm.model.gguf_blocks import BLOCK_TYPES, BlockType
from mulm.model.gguf_model import write_gguf
from mulm.model.hf_folder import write_hf_folder
from mulm.model.model_files import open_model_files
from mulm.model.stored_card import stored_card
from mulm.store import Store

FORMATS = ("hf", "gguf")
DTYPES = {
    "stored": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What is asked for: `block` for a GGUF file, `dtype` for a folder (None: as stored)."""

    out: Path
    dtype: torch.dtype | None
    block: BlockType | None
    template: Path | None

    @classmethod
    def of(
        cls, to: str, out: Path, dtype: str | None, quant: str | None, template: Path | None
    ) -> ExportOrder:
        """Read the names that a user gives.

        Raises:
            UnknownNameError: a name that does not exist; the hint lists what does.
            ConfigError: an option of the other format.
        """
        _require_known("format", to, FORMATS)
        if to == "hf" and quant is not None:
            raise ConfigError("--quant is for gguf", hint="--dtype says the type of hf weights")
        if to == "gguf" and dtype is not None:
            raise ConfigError("--dtype is for hf", hint="--quant says the type of gguf weights")
        _require_known("dtype", dtype or "stored", tuple(DTYPES))
        _require_known("quant", quant or "f16", tuple(BLOCK_TYPES))
        block = BLOCK_TYPES[quant or "f16"] if to == "gguf" else None
        return cls(out, DTYPES[dtype or "stored"], block, template)


def export_model(store: Store, ref: str, manifest: Manifest, order: ExportOrder) -> int:
    """Write a stored model as ordered; returns the bytes written.

    Raises:
        NotFoundError, CorruptError: a file of it is missing or damaged.
        ConfigError, DataError: the template or the shape has no place there.
        ConflictError: the path exists.
        NoSpaceError: the disk is full; nothing is left behind.
    """
    with open_model_files(store, manifest) as files:
        template = read_template(order.template, files.tokenizer)
        if order.block is not None:
            licence = ", ".join(manifest.licences)
            write_gguf(order.out, files, order.block, name=ref, licence=licence, template=template)
        else:
            card = stored_card(store, ref, manifest)
            write_hf_folder(order.out, files, card, dtype=order.dtype, template=template)
    written = order.out.iterdir() if order.out.is_dir() else [order.out]
    return sum(path.stat().st_size for path in written)


def read_template(path: Path | None, tokenizer: Tokenizer) -> str:
    """The chat template of an export: ours, or one from a file that renders.

    Raises:
        NotFoundError: no such file.
        ConfigError: it is no text.
        DataError: it does not render.
    """
    if path is None:
        return exported_template(tokenizer)
    try:
        template = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {str(path)!r}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        hint = "a template is a file of UTF-8 text"
        raise ConfigError(
            f"cannot read {str(path)!r}: {getattr(error, 'strerror', error)}", hint=hint
        ) from None
    render_template(template, SAMPLE, tokenizer)
    return template


def _require_known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownNameError(f"no {what} {name!r}", hint=f"choose from {', '.join(known)}")
