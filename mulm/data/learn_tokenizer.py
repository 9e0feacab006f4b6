"""A tokenizer learned from the training documents of a version.

Called by the build of a dataset, and by a run that makes a tokenizer alone. Invariant: the same
documents and the same settings are the same tokenizer, whoever asks for it; it is learned once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, Flags
from mulm.data.encode import training_texts
from mulm.data.steps import StageProgress, Steps
from mulm.data.tokenizer import train_tokenizer
from mulm.manifest import Manifest
from mulm.store import Store

TOKENIZER_SAMPLE_BYTES = 64 << 20
"""A tokenizer learns from about this much text at most, chosen by hash."""


def learn_tokenizer(
    steps: Steps, documents: Manifest, vocab_size: int, chat_fraction: float
) -> Manifest:
    """Learn from the training documents: a version of kind "tokenizer".

    Args:
        steps: Remembers what was made.
        documents: A version of kind "documents".
        vocab_size: How many ids it has.
        chat_fraction: The part of the documents that is read as turns.

    Raises:
        DataError: too few texts for so many ids.
    """
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "chat_fraction": chat_fraction,
        "sample_bytes": TOKENIZER_SAMPLE_BYTES,
    }

    def make() -> Manifest:
        part = TOKENIZER_SAMPLE_BYTES / max(1, documents.counts["train_bytes"])
        texts = training_texts(_train_files(steps.store, documents), chat_fraction, part)
        learned = train_tokenizer(_told(texts, steps, documents), vocab_size)
        return Manifest(
            kind="tokenizer",
            code_version=steps.code_version,
            config=config,
            parents={"documents": documents.id},
            tokenizer_fingerprint=learned.fingerprint,
            licences=documents.licences,
            counts={"vocab_size": learned.vocab_size},
            blobs=(steps.store.put("tokenizer.json", learned.to_bytes()),),
        )

    inputs = config | {"documents": documents.id}
    return steps.run("tokenizer", inputs, make, lambda m: f"{m.counts['vocab_size']} tokens")


def _told(texts: Iterator[str], steps: Steps, documents: Manifest) -> Iterator[str]:
    """Pass texts on and tell how far reading is; what comes after it tells nothing."""
    total = min(TOKENIZER_SAMPLE_BYTES, int(documents.counts["train_bytes"]))
    progress = StageProgress(steps, "tokenizer", total)
    for text in texts:
        yield text
        progress.advance(len(text.encode()))


def _train_files(store: Store, documents: Manifest) -> Iterator[tuple[bytes, Flags]]:
    for chunk in Corpus.of(store, documents).chunks:
        yield store.read(chunk.entry), chunk.decisions.are(TRAIN)
