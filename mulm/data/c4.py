"""The rules of C4: lines that are no sentences go, and pages with too little left.

One of the families of quality rules; called by `mulm.data.clean.Cleaner` for each text, since it
changes texts. They suit pages with a paragraph on each line, not text that is wrapped by hand.
"""

from __future__ import annotations

import re

MIN_LINE_WORDS = 3
MAX_WORD_CHARS = 1000
MIN_SENTENCES = 5
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

_ENDS = (".", "!", "?", '"', "'", "”", "’")
_ELLIPSES = ("...", "…")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*(?=\s|$)""")


def c4(text: str) -> tuple[str, str]:
    """The lines of a text that are kept, and the rule that it breaks or "".

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, with the numbers
    and the lines about cookies of the published code. Closing quotation marks of typography end a
    line as straight ones do. A sentence is what ends like one before white space.
    """
    kept: list[str] = []
    n_sentences = 0
    for line in text.split("\n"):
        own = _CITATION.sub("", line).strip() if "[" in line else line.strip()
        if not _is_prose(own):
            continue
        lowered = own.lower()
        if "lorem ipsum" in lowered:
            return text, "c4_lorem_ipsum"
        if "{" in own:
            return text, "c4_curly_bracket"
        if "javascript" in lowered or any(policy in lowered for policy in POLICIES):
            continue
        kept.append(own)
        n_sentences += max(len(_SENTENCE_END.findall(own)), 1)
    if n_sentences < MIN_SENTENCES:
        return text, "c4_too_few_sentences"
    return "\n".join(kept) + "\n", ""


def _is_prose(line: str) -> bool:
    if not line.endswith(_ENDS) or line.endswith(_ELLIPSES):
        return False
    words = line.split()
    if len(words) < MIN_LINE_WORDS:
        return False
    return len(line) <= MAX_WORD_CHARS or max(map(len, words)) <= MAX_WORD_CHARS
