"""The model card: what a model is, and what it was made from, for people who find it elsewhere.

Called at export. Pure and without times, so that the same model has the same card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from mulm.chat_format import ChatFormat
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig

CARD = "README.md"
"""Its name among the files of a model."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
"""A licence as hubs name it; what is none is written out as a name."""
_SETTINGS = ("steps", "batch_tokens", "seq_len", "optimizer", "seed")


def model_card(
    name: str,
    model: Manifest,
    config: MicroLMConfig,
    ancestors: Mapping[str, Manifest],
    form: ChatFormat,
) -> str:
    """The `README.md` of an exported model.

    Args:
        name: What the model is called.
        model: Its manifest.
        config: Its shape.
        ancestors: The manifests of its parents that are still in the store, by role.
        form: How its conversations are written.
    """
    licences = sorted(set(model.licences).union(*(a.licences for a in ancestors.values())))
    parts = [
        _front_matter(licences),
        f"# {name}\n\nA micro language model made with µLM {model.code_version}."
        f" {config.n_parameters:,} parameters.",
        "## Shape\n\n" + _table(config.to_stored()),
        "## Lineage\n\n" + "\n".join(_lineage(model, ancestors)),
        "## Licences\n\n" + (", ".join(licences) or "Not stated for the text it was trained on."),
        "## Use\n\n"
        f"Conversations are {form.name}: {form.in_words}; the chat"
        f" template writes it. They begin, as all documents do, with `{form.document_begin}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(licences: list[str]) -> str:
    name = ", ".join(licences)
    lines = [f"license: {name.lower()}"]
    if not _IDENTIFIER.fullmatch(name):
        lines = ["license: other", *([f"license_name: {json.dumps(name)}"] if name else [])]
    lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    return "\n".join(["---", *lines, "tags: [mulm]", "---"])


def _lineage(model: Manifest, ancestors: Mapping[str, Manifest]) -> Iterator[str]:
    yield f"- model: `{model.id}`, tokenizer `{model.tokenizer_fingerprint}`"
    settings = {key: model.config[key] for key in _SETTINGS if key in model.config}
    if settings:
        yield "- training: " + ", ".join(f"{key} {_short(v)}" for key, v in settings.items())
    counts = {key: value for key, value in model.counts.items() if key != "parameters"}
    if counts:
        yield "- counts: " + _counts(counts)
    for role, parent_id in sorted(model.parents.items()):
        told = ""
        if role in ancestors:
            parent = ancestors[role]
            told = f" ({_counts(parent.counts)}), made with µLM {parent.code_version}"
        yield f"- {role}: `{parent_id}`{told}"


def _short(value: object) -> object:
    """A setting with settings of its own is told by its kind."""
    return value.get("kind") if isinstance(value, Mapping) else value


def _counts(counts: Mapping[str, int | float]) -> str:
    return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in sorted(counts.items()))


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| `{key}` | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
