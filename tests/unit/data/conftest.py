from __future__ import annotations

import random

import pytest

from mulm.data.tokenizer import Tokenizer, train_tokenizer


def prose(seed: int, n_paragraphs: int) -> str:
    """Made-up English with chapters; the same for the same seed."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(400)
    ]
    paragraphs = []
    for i in range(n_paragraphs):
        sentences = [" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(5)]
        heading = f"CHAPTER {i // 8 + 1}\n\n" if i % 8 == 0 else ""
        paragraphs.append(heading + "\n".join(sentences))
    return "\n\n".join(paragraphs) + "\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([prose(0, 40), "user assistant system tool\n" * 20], 512)
