"""File names and what they say: the format of a file, and how it is compressed.

Called by the sources and by `remote`. Invariant: a name alone decides, in any case of letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COMPRESSIONS: Mapping[str, str] = MappingProxyType({".gz": "gzip", ".zst": "zstd"})
"""Suffixes of compressed files, and pyarrow's names of the codecs."""

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        ".txt": "text",
        ".text": "text",
        ".md": "text",
        ".json": "jsonl",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".csv": "csv",
        ".tsv": "csv",
        ".parquet": "parquet",
    }
)
"""Suffixes, and the source types that read them."""


def compression_of(name: str) -> str | None:
    """The codec of a file, or None for a plain one."""
    return next((c for suffix, c in COMPRESSIONS.items() if name.lower().endswith(suffix)), None)


def suffix_of(name: str) -> str:
    """The last suffix before a compression's, in small letters: ".txt" of `Book.TXT.gz`."""
    lower = name.lower()
    for compression in COMPRESSIONS:
        lower = lower.removesuffix(compression)
    stem, dot, suffix = lower.rpartition(".")
    return f".{suffix}" if dot and stem and "/" not in suffix else ""


def suffixes_of(*types: str) -> tuple[str, ...]:
    """The suffixes that these source types read."""
    return tuple(suffix for suffix, type_name in FORMATS.items() if type_name in types)
