"""Tokenizers made elsewhere: which of them are ours to use, and why the others are not.

Called when a model is imported. Invariant: a tokenizer that passes is read, used and exported by
`mulm.data.tokenizer` exactly as its makers' own code would, apart from special tokens, which text
alone never yields here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mulm.chat_format import FORMATS, nearest_format
from mulm.data.tokenizer import Tokenizer
from mulm.errors import CorruptError, DataError

_NORMALIZERS = (None, "NFC")
_LARGEST_ID = 1 << 22
"""Ids count up a list of tokens: a file of two lines must not ask for one of billions."""


def read_foreign_tokenizer(content: bytes) -> Tokenizer:
    """A `tokenizer.json` of a foreign model.

    Raises:
        CorruptError: it is no JSON, or the backend cannot read it.
        DataError: it is another kind of tokenizer; the hint says what works.
    """
    try:
        values = json.loads(content)
        reason = why_not(values)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise CorruptError(
            "tokenizer.json is not the description of a tokenizer", hint="fetch the model again"
        ) from None
    if reason:
        raise DataError(
            f"the tokenizer cannot be used: {reason}",
            hint="what works: byte-level BPE (tokenizer.json) with the special tokens of "
            + " or ".join(f"{form.name} ({', '.join(form.required)})" for form in FORMATS),
        )
    return Tokenizer.from_bytes(content)


def split_patterns(values: Mapping[str, Any]) -> list[str]:
    """The regular expressions that cut text before BPE, in their order.

    `ByteLevel` with its own pattern is GPT-2's and is given as "gpt-2"; `Digits` as "digits".

    Raises:
        DataError: a step that is none of these.
    """
    patterns = []
    for step in _steps(values.get("pre_tokenizer")):
        if step["type"] == "Split" and step["behavior"] in ("Isolated", "isolated"):
            patterns.append(str(step["pattern"]["Regex"]))
        elif step["type"] == "Digits" and step["individual_digits"]:
            patterns.append("digits")
        elif step["type"] == "ByteLevel":
            patterns += ["gpt-2"] if step.get("use_regex", True) else []
        else:
            raise DataError(f"a pre-tokenizer of type {step['type']!r}")
    return patterns


def why_not(values: Mapping[str, Any]) -> str:
    """Why this tokenizer cannot be used; empty if it can."""
    model = values["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        kind = "BPE with byte fallback" if model.get("byte_fallback") else model["type"]
        return f"it is {kind}, not byte-level BPE"
    if model.get("dropout"):
        return f"it cuts words at random (dropout {model['dropout']})"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "its tokens spell where in a word they stand"
    if max(model["vocab"].values(), default=0) > _LARGEST_ID:
        return f"it has ids beyond {_LARGEST_ID}"
    if len(set(model["vocab"].values())) < len(model["vocab"]):
        return "two of its tokens have one id"
    byte_level = [s for s in _steps(values.get("pre_tokenizer")) if s["type"] == "ByteLevel"]
    if not byte_level or byte_level[0].get("add_prefix_space"):
        return "it does not read bytes as they are"
    normalizer = (values.get("normalizer") or {}).get("type")
    if normalizer not in _NORMALIZERS:
        return f"it changes the text before reading it ({normalizer})"
    special = {t["content"] for t in values.get("added_tokens", ()) if t["special"]}
    form, missing = nearest_format(special)
    return f"it has no special token {missing[0]!r}, as {form.name} has" if missing else ""


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        yield from pre_tokenizer["pretokenizers"]
    elif pre_tokenizer:
        yield pre_tokenizer
