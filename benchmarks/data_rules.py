"""What cleaning, quality rules and near duplicates cost, beside what peers take for the same.

    python -m benchmarks.data_rules [FOLDER] [--peer-mb 4]

The folder holds text files; they are cut into documents as a build does it. All numbers are CPU
seconds of this process and its children, all ways run in turn in one process, and a peer that is
not installed is named and left out. Peers: datatrove with spaCy (its word tokenizer for English is
rule-based and needs no model), and rensa. They get a sample, since they are slow.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mulm.data.clean import Cleaner, decode, prepare
from mulm.data.dedup import digest
from mulm.data.near import band_hashes, shingle_sets
from mulm.data.near_pairs import near_duplicates
from mulm.data.rules import CleanRules, NearRules
from mulm.data.sections import cut_sections
from mulm.data.texts import Hashes, batches

DEFAULT_FOLDER = Path("../shared/corpora/books_large")
N_ORIGINALS, N_PLANTED = 2000, 600
MAX_CHANGED_PART = 0.04
SEED = 7
RULES = NearRules()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Planted:
    """Documents with near copies at the end, and which rows have an earlier one close enough."""

    texts: list[str]
    truth: set[int]


def main() -> None:
    """Print the three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument("--peer-mb", type=float, default=4.0)
    options = parser.parse_args()
    contents = [path.read_bytes() for path in sorted(options.folder.iterdir()) if path.is_file()]
    documents = clean_by_default(contents)
    random.Random(SEED).shuffle(documents)
    sample = first_mb(documents, options.peer_mb)
    compare_quality(documents, sample)
    compare_near(planted(documents[:N_ORIGINALS], N_PLANTED), planted(sample, len(sample) // 2))


def clean_by_default(contents: Sequence[bytes]) -> list[str]:
    """Documents of the files; prints what the default rules and digests take."""
    rules = CleanRules()
    cleaner = Cleaner(rules)
    decoded, decode_s = timed(lambda: [decode(content)[0] for content in contents])
    prepared, prepare_s = timed(lambda: [prepare(text, rules) for text in decoded])
    sections = [cut_sections(text) for text in prepared]
    _, clean_s = timed(lambda: [cleaner.clean(own) for own in sections])
    _, digest_s = timed(lambda: [[digest(text) for text in own] for own in sections])
    size_mb = sum(map(len, contents)) / 1e6
    report("default cleaning", size_mb, prepare_s + clean_s + digest_s)
    for name, cpu_s in [
        ("  decode (not in the sum)", decode_s),
        ("  normalise", prepare_s),
        ("  basic rules", clean_s),
        ("  digest", digest_s),
    ]:
        report(name, size_mb, cpu_s)
    return [text for own in sections for text in own]


def compare_quality(documents: list[str], sample: list[str]) -> None:
    """Gopher's two families."""
    cleaner = Cleaner(CleanRules(min_chars=1, quality=("gopher", "gopher_repetition")))
    _, cpu_s = timed(lambda: [cleaner.clean(batch) for batch in batches(documents)])
    own_rate = report("gopher + gopher_repetition", size_mb(documents), cpu_s)
    cleaned = [cleaner.clean(batch) for batch in batches(sample)]
    own_keeps = [not reason for own in cleaned for reason in own.reasons]
    try:
        reasons, cpu_s = datatrove_quality(sample)
    except ImportError as error:
        print(f"datatrove's Gopher filters: left out ({error})")
        return
    rate = report("datatrove's Gopher filters", size_mb(sample), cpu_s)
    print(f"  µLM judges {own_rate / rate:.0f} x as many bytes per CPU-second")
    print_agreement(own_keeps, reasons)


def print_agreement(own_keeps: list[bool], reasons: list[str]) -> None:
    """How many verdicts are equal, and how many but for datatrove's rule about letters.

    It counts punctuation marks as words, which many a dialogue does not survive; in the paper
    and here words are what stands between white space.
    """
    is_equal = [keeps == (not reason) for keeps, reason in zip(own_keeps, reasons, strict=True)]
    is_other = [reason != "gopher_below_alpha_threshold" for reason in reasons]
    print(
        f"  {np.mean(is_equal):.1%} of verdicts agree,"
        f" {np.mean([equal for equal, other in zip(is_equal, is_other, strict=True) if other]):.1%}"
        f" without its rule about letters (kept: {np.mean(own_keeps):.1%} here,"
        f" {np.mean([not reason for reason in reasons]):.1%} there)"
    )


def compare_near(whole: Planted, small: Planted) -> None:
    """Near duplicates, first on all documents, then on the sample beside peers."""
    dropped, cpu_s = timed(lambda: own_near(whole.texts))
    report("near duplicates", size_mb(whole.texts), cpu_s)
    print_found(dropped, whole)
    dropped, cpu_s = timed(lambda: own_near(small.texts))
    own_rate = report("near duplicates, sample", size_mb(small.texts), cpu_s)
    print_found(dropped, small)
    peers: dict[str, Callable[[list[str]], tuple[set[int], float]]] = {
        "datatrove's MinHash stages": datatrove_near,
        "rensa's deduplicator": rensa_near,
    }
    for name, peer in peers.items():
        try:
            dropped, cpu_s = peer(small.texts)
        except (ImportError, TypeError) as error:  # datatrove 0.10 cannot use xxhash 4
            print(f"{name}: left out ({error})")
            continue
        rate = report(name, size_mb(small.texts), cpu_s)
        print_found(dropped, small)
        print(f"  µLM takes {own_rate / rate:.2f} x as many bytes per CPU-second")


def planted(documents: list[str], n_copies: int) -> Planted:
    """Copies with words changed at random, up to `MAX_CHANGED_PART`; the truth is exact."""
    generator = random.Random(SEED)
    copies = []
    for text in documents[:n_copies]:
        words = text.split(" ")
        n_changed = int(len(words) * generator.uniform(0, MAX_CHANGED_PART)) + 1
        for place in generator.sample(range(len(words)), min(n_changed, len(words))):
            words[place] = generator.choice(words)
        copies.append(" ".join(words))
    originals = [set(own.tolist()) for own in shingle_sets(documents[:n_copies], RULES)]
    changed = [set(own.tolist()) for own in shingle_sets(copies, RULES)]
    truth = {
        len(documents) + row
        for row, (a, b) in enumerate(zip(originals, changed, strict=True))
        if a and len(a & b) >= RULES.min_similarity * len(a | b)
    }
    return Planted(documents + copies, truth)


def own_near(texts: list[str]) -> set[int]:
    """The rows that µLM drops."""
    bands = np.concatenate([band_hashes(batch, RULES) for batch in batches(texts)])

    def shingles_of(rows: Sequence[int]) -> list[Hashes]:
        return shingle_sets([texts[row] for row in rows], RULES)

    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    originals = near_duplicates(bands, sizes, shingles_of, RULES.min_similarity)
    return set(np.flatnonzero(originals >= 0).tolist())


def datatrove_quality(texts: list[str]) -> tuple[list[str], float]:
    """Why its two filters drop documents, "" where they keep them."""
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    filters = [GopherQualityFilter(), GopherRepetitionFilter()]

    def reason(document: Any) -> str:
        verdicts = (own.filter(document) for own in filters)
        return next((verdict[1] for verdict in verdicts if verdict is not True), "")

    documents = datatrove_documents(texts)
    reason(documents[0])  # loads the word tokenizer
    return timed(lambda: [reason(document) for document in documents])


def datatrove_near(texts: list[str]) -> tuple[set[int], float]:
    """The rows that its four stages drop, as they are set by default, with files in between.

    Its bands aim at a similarity of 0.72, and it compares no texts: its precision is another goal.
    """
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    config = MinhashConfig(n_grams=RULES.ngram)
    documents = datatrove_documents(texts)
    with tempfile.TemporaryDirectory() as folder:
        signatures, pairs, removed = (os.path.join(folder, name) for name in "spr")
        MinhashDedupSignature(os.path.join(folder, "w"), config).run(documents[:1])

        def run() -> set[int]:
            MinhashDedupSignature(signatures, config).run(documents)
            for rank in range(config.num_buckets):
                MinhashDedupBuckets(signatures, pairs, config=config).run(
                    None, rank, config.num_buckets
                )
            MinhashDedupCluster(pairs, removed, config).run(None, 0, 1)
            kept = MinhashDedupFilter(removed).run(iter(documents))
            return set(range(len(texts))) - {int(document.id) for document in kept}

        return timed(run)


def datatrove_documents(texts: list[str]) -> list[Any]:
    """Its documents, and its log silent."""
    from datatrove.data import Document
    from loguru import logger

    logger.remove()
    return [Document(text=text, id=str(row)) for row, text in enumerate(texts)]


def rensa_near(texts: list[str]) -> tuple[set[int], float]:
    """The rows that it drops; n-grams are made in Python, as its users do."""
    from rensa import RMinHashDeduplicator

    def run() -> set[int]:
        dedup = RMinHashDeduplicator(threshold=RULES.min_similarity, num_perm=128, use_lsh=True)
        entries = ((str(row), python_ngrams(text)) for row, text in enumerate(texts))
        return {row for row, is_kept in enumerate(dedup.add_pairs(entries)) if not is_kept}

    return timed(run)


def python_ngrams(text: str) -> list[str]:
    """N-grams of words between white space, in lower case."""
    words = text.lower().split()
    return [" ".join(words[at : at + RULES.ngram]) for at in range(len(words) - RULES.ngram + 1)]


def first_mb(texts: list[str], wanted_mb: float) -> list[str]:
    """So many texts that they are about as large as wanted."""
    sizes = np.cumsum([len(text) for text in texts])
    return texts[: int(np.searchsorted(sizes, wanted_mb * 1e6)) + 1]


def size_mb(texts: list[str]) -> float:
    """In UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and its CPU seconds with those of its children."""
    before = os.times()
    result = run()
    after = os.times()
    return result, sum(after[:4]) - sum(before[:4])


def report(name: str, size_mb: float, cpu_s: float) -> float:
    """Print and return MB per CPU-second."""
    rate = size_mb / max(cpu_s, 1e-9)
    print(f"{name:32} {cpu_s * 1000 / size_mb:9.2f} ms/MB {rate:9.2f} MB/CPU-s")
    return rate


def print_found(dropped: set[int], planted: Planted) -> None:
    """Recall and precision."""
    right = len(dropped & planted.truth)
    print(
        f"  {len(planted.truth)} planted: recall {right / max(len(planted.truth), 1):.3f},"
        f" precision {right / max(len(dropped), 1):.3f}"
    )


if __name__ == "__main__":
    main()
