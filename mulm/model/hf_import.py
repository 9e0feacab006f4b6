"""Import of a folder in Hugging Face's layout: which files it needs, and what they hold.

Called by `jobs.import_model`, for local folders and for what `hf_hub` has fetched. Invariants: no
code of the folder runs, no pickle is opened; no name that a file of the folder gives leads out of
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulm.data.foreign_tokenizer import read_foreign_tokenizer
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError, CorruptError, DataError, NotFoundError
from mulm.model.chat_template import Verdict, judge_template
from mulm.model.config import MicroLMConfig
from mulm.model.hf import from_hf_config, is_derived, tensor_names
from mulm.model.model_card import CARD
from mulm.model.model_files import ModelFiles, checked, expected_shapes
from mulm.model.safetensors_file import TensorFiles
from mulm.model.weights import require_fit, shapes

REQUIRED = ("config.json", "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "chat_template.jinja", CARD)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.S)
_LICENCE = re.compile(r"^license(_name)?:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.M)


@dataclass(frozen=True, slots=True)
class Described:
    """What the small files of a folder say."""

    config: MicroLMConfig
    tokenizer: Tokenizer
    template: Verdict
    """How its chat template compares to the one with which we serve."""
    card: bytes | None
    licences: tuple[str, ...]


def describe_hf_folder(folder: Path) -> Described:
    """Read everything but the weights, which need not be there yet.

    Raises:
        NotFoundError: a file is missing.
        CorruptError: a file is damaged.
        DataError: another architecture, variant or tokenizer; the hint lists what works.
        ConfigError: an impossible shape, or a file that may not be read.
    """
    with naming_unreadable(folder):
        for name in REQUIRED:
            if not (folder / name).is_file():
                raise _missing(str(folder), name)
        config = from_hf_config(_read_json(folder / "config.json"))
        tokenizer = read_foreign_tokenizer((folder / "tokenizer.json").read_bytes())
        card = (folder / CARD).read_bytes() if says_something(folder / CARD) else None
        template = _template(folder)
    return Described(
        config,
        tokenizer,
        judge_template(template, tokenizer),
        card,
        licences_in(card.decode("utf-8", "replace")) if card else (),
    )


def says_something(path: Path) -> bool:
    """Whether there is such a file; one without a byte is as none."""
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Raise ConfigError in the place of the system's error for what cannot be read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot read {str(error.filename or path)!r}: {error.strerror}",
            hint="check the path and its permissions",
        ) from None


def licences_in(card: str) -> tuple[str, ...]:
    """The licence that a model card's front matter names, if it does; a name beats "other"."""
    front = _FRONT_MATTER.match(card)
    found = dict(_LICENCE.findall(front[1])) if front else {}
    named = found.get("_name") if found.get("") == "other" else None
    licence = named or found.get("")
    return (licence,) if licence else ()


def open_hf_weights(folder: Path, described: Described) -> ModelFiles:
    """The whole model, under our names.

    Raises:
        NotFoundError: a part of the weights is missing.
        CorruptError: a part is damaged, or they do not fit the config.
        DataError: they have tensors that we do not compute with.
    """
    tensors = TensorFiles([folder / name for name in weight_files(folder)])
    try:
        ours_by_theirs = _our_names(tensors, described.config)
        _require_fit(tensors, described.config, ours_by_theirs, folder.name)
        tensors.rename(ours_by_theirs)
    except BaseException:
        tensors.__exit__(None, None, None)
        raise
    return checked(ModelFiles(described.config, described.tokenizer, tensors), folder.name)


def require_files(names: Collection[str], where: str) -> None:
    """Whether a folder or repository with these files can be imported.

    Raises:
        DataError: its weights are in a format that can run code.
        NotFoundError: a file is missing.
    """
    has_weights = WEIGHTS in names or INDEX in names
    pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if not has_weights and pickled:
        raise DataError(
            f"the weights of {where!r} are a pickle ({pickled[0]}), which can run code",
            hint="convert them to safetensors where they were made",
        )
    missing = [name for name in REQUIRED if name not in names]
    missing += [] if has_weights else [WEIGHTS]
    if missing:
        raise _missing(where, missing[0])


def weight_files(folder: Path) -> list[str]:
    """The names of the weights' files: one, or those in the index.

    Raises:
        NotFoundError: a file that the index names is missing.
        CorruptError: the index is damaged, or names what is no file beside it.
    """
    names = indexed_files(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise _missing(str(folder), missing[0])
    return names


def indexed_files(folder: Path) -> list[str]:
    """As `weight_files`, for a folder that need not have them yet."""
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    try:
        names = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        names = []
    plain = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)
    if not names or not all(isinstance(n, str) and plain.fullmatch(n) for n in names):
        raise CorruptError(f"{INDEX} names no files of weights", hint="fetch the model again")
    return names


def _our_names(tensors: TensorFiles, config: MicroLMConfig) -> dict[str, str]:
    if config.n_layers > len(tensors.specs):  # before anything iterates over so many
        raise CorruptError(
            f"the config has {config.n_layers} layers, the weights {len(tensors.specs)} tensors",
            hint="fetch the model again: a file may be cut short",
        )
    ours_by_theirs = {theirs: ours for ours, theirs in tensor_names(config).items()}
    missing = sorted(ours_by_theirs.keys() - tensors.specs.keys())
    if missing:
        raise CorruptError(
            f"the weights lack {missing[0]!r}",
            hint="fetch the model again: a file may be cut short, or num_hidden_layers,"
            " tie_word_embeddings or architectures of config.json are of another model",
        )
    extra = sorted(
        name
        for name in tensors.specs.keys() - ours_by_theirs.keys()
        if not is_derived(name, config)
    )
    if extra:
        raise DataError(
            f"the weights hold {extra[0]!r}, which has no place in {_kind(config)}",
            hint="num_hidden_layers, tie_word_embeddings or architectures of config.json are of"
            " another model, or adapters were not merged into it",
        )
    return ours_by_theirs


def _require_fit(
    tensors: TensorFiles, config: MicroLMConfig, ours_by_theirs: dict[str, str], what: str
) -> None:
    """Whether shapes are those of the config, told by the names in the file."""
    expected = expected_shapes(config)
    found = shapes({theirs: tensors.specs[theirs] for theirs in ours_by_theirs})
    require_fit(found, {theirs: expected[ours] for theirs, ours in ours_by_theirs.items()}, what)


def _missing(where: str, name: str) -> NotFoundError:
    return NotFoundError(
        f"{where!r} has no {name!r}",
        hint=f"a model in Hugging Face's layout has {', '.join(REQUIRED)} and {WEIGHTS}",
    )


def _kind(config: MicroLMConfig) -> str:
    return "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"


def _template(folder: Path) -> str | None:
    if says_something(folder / "chat_template.jinja"):
        return (folder / "chat_template.jinja").read_text("utf-8", "replace")
    if not says_something(folder / "tokenizer_config.json"):
        return None
    found = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # named templates
        named = [entry for entry in found if isinstance(entry, dict)]
        found = next((e.get("template") for e in named if e.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CorruptError(f"{path.name} holds no JSON object", hint="fetch the model again")
    return values
