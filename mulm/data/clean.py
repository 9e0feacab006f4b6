"""Cleaning: bytes to normal text, or a reason why not.

Called where documents are read: `decode` and `prepare` for each raw document, then a `Cleaner`
for batches of the sections that were cut from them. Invariant: what happens to a document
depends on the rules and on its own text alone, never on the batch around it.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from mulm.data.basics import basic_reasons
from mulm.data.c4 import c4
from mulm.data.contamination import Evaluations
from mulm.data.language import Languages
from mulm.data.personal import mask
from mulm.data.quality import FAMILIES
from mulm.data.repair import repair
from mulm.data.rules import CleanRules
from mulm.data.texts import Hashes, Texts

_SNIFFED_BYTES = 8192
_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_INVISIBLE = "\u200b\u00ad\ufeff"
_SPACES = "\u00a0\u2007\u202f"
_REPLACEMENTS = (
    *((character, "\n") for character in _LINE_ENDS),
    *((character, "") for character in _INVISIBLE),
    *((character, " ") for character in _SPACES),
)
_N_ASCII_REPLACEMENTS = 6


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of a batch of documents: three lists of its length."""

    texts: list[str]
    """Changed where a rule changes text."""
    reasons: list[str]
    """ "" if kept, else the first reason to drop the document."""
    languages: list[str]
    """ISO 639-1 codes, "" where nobody asked."""


class Cleaner:
    """Obeys the rules on batches of normalised texts.

    It can be pickled. Models are loaded when the first batch needs them.

    Args:
        rules: What is asked for; `repair` is obeyed by `prepare` instead.
        contamination: The sorted n-gram hashes of evaluations, see `mulm.data.contamination`.
        contamination_ngram: Words in those n-grams.
    """

    def __init__(
        self,
        rules: CleanRules,
        contamination: Hashes | None = None,
        contamination_ngram: int = 13,
    ) -> None:
        self.rules = rules
        self._languages = Languages(rules.languages, rules.min_language_confidence)
        self._evaluations = (
            None if contamination is None else Evaluations(contamination, contamination_ngram)
        )

    def clean(self, texts: Sequence[str]) -> Cleaned:
        """Judge all documents of a batch; one of 1 to 2 MB is fastest.

        Rules are asked in this order: the basic ones, language, quality as listed, evaluations.
        Personal data is masked last, so that it changes no verdict.
        """
        found = Cleaned(list(texts), basic_reasons(texts, self.rules), [""] * len(texts))
        if self.rules.languages:
            self._identify(found)
        if self.rules.quality or self._evaluations:
            self._judge(found)
        if self.rules.mask:
            for row in _kept(found):
                found.texts[row] = mask(found.texts[row], self.rules.mask)
        return found

    def _identify(self, found: Cleaned) -> None:
        for row in _kept(found):
            found.languages[row], is_wanted = self._languages.identify(found.texts[row])
            if not is_wanted:
                found.reasons[row] = "language"

    def _judge(self, found: Cleaned) -> None:
        rows, batch = _batch(found)
        for name in self.rules.quality:
            if name == "c4":
                for row in _kept(found):
                    found.texts[row], found.reasons[row] = c4(found.texts[row])
                rows, batch = _batch(found)
            else:
                _note(found, rows, FAMILIES[name](batch))
        if self._evaluations:
            _note(found, rows, self._evaluations.reasons(batch))


def packages(rules: CleanRules) -> dict[str, str]:
    """The packages of others that decide what these rules do, and their versions."""
    asked = (("ftfy", rules.repair), ("py3langid", rules.languages))
    found = {}
    for name, is_asked in asked:
        with contextlib.suppress(PackageNotFoundError):  # who needs it says how to get it
            if is_asked:
                found[name] = version(name)
    return found


def _kept(found: Cleaned) -> list[int]:
    return [row for row, reason in enumerate(found.reasons) if not reason]


def _batch(found: Cleaned) -> tuple[list[int], Texts]:
    rows = _kept(found)
    return rows, Texts([found.texts[row] for row in rows])


def _note(found: Cleaned, rows: list[int], reasons: list[str]) -> None:
    for row, reason in zip(rows, reasons, strict=True):
        found.reasons[row] = found.reasons[row] or reason


def decode(content: bytes) -> tuple[str, str | None]:
    """The text of some bytes and None, or what can be shown of them and the reason to drop."""
    if b"\0" in content[:_SNIFFED_BYTES]:
        return "", "binary"
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        return content[:_SNIFFED_BYTES].decode("utf-8", "replace"), "invalid_utf8"


def prepare(text: str, rules: CleanRules) -> str:
    """A raw document in normal form, mended first if the rules say so."""
    return normalise(repair(text) if rules.repair else text)


def normalise(text: str) -> str:
    r"""One form for texts that read the same.

    NFC; "\n" line ends; ordinary spaces, none at line ends; no invisible characters; U+FFFD for
    half surrogate pairs; at most two blank lines; one line end at the end. Lines stay as they are.
    """
    text = _with_plain_characters(text)
    if not _is_latin(text):
        text = unicodedata.normalize("NFC", _without_half_pairs(text))
    return _with_plain_blanks(text)


def _with_plain_characters(text: str) -> str:
    # Finding nothing is ten times faster than any substitution, and nothing is the usual case.
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    n_possible = _N_ASCII_REPLACEMENTS if text.isascii() else len(_REPLACEMENTS)
    for character, replacement in _REPLACEMENTS[:n_possible]:
        if character in text:
            text = text.replace(character, replacement)
    return text


def _is_latin(text: str) -> bool:
    """Whether all is below U+0100, where NFC changes nothing. A copy of memory tells it."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _without_half_pairs(text: str) -> str:
    """JSON can write them, UTF-8 cannot."""
    try:
        text.encode("utf-16-le")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _with_plain_blanks(text: str) -> str:
    if " \n" in text or ("\t" in text and "\t\n" in text):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if text[:1] == "\n" or text[-1:] != "\n" or text[-2:-1].isspace():
        text = text.rstrip().lstrip("\n") + "\n"
    first, *others = text.split("\n\n\n\n")
    if others:
        stripped = (other.lstrip("\n") for other in others)
        text = "\n\n\n".join([first, *(other for other in stripped if other)])
    return "" if text == "\n" else text
