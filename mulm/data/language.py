"""Which language a text is in, without a network.

Called by `mulm.data.clean.Cleaner` if a recipe names languages. The model comes with the package
py3langid and is loaded by the first text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Protocol

from mulm.errors import ConfigError, UnknownNameError, nearest

SAMPLE_CHARS = 2000
"""So much of a text is looked at: enough to be sure, and little beside the other steps."""


class _Identifier(Protocol):
    @property
    def labels(self) -> list[str]: ...
    def classify(self, text: str) -> tuple[str, float]: ...


class Languages:
    """The languages to keep, and how sure to be."""

    def __init__(self, codes: Sequence[str], min_confidence: float) -> None:
        self.codes = tuple(codes)
        self.min_confidence = min_confidence

    def identify(self, text: str) -> tuple[str, bool]:
        """The ISO 639-1 code of a text's most likely language, and whether to keep the text.

        Raises:
            ConfigError: py3langid is not installed.
            UnknownNameError: it knows no language of one of the codes.
        """
        code, confidence = self._identifier.classify(text[:SAMPLE_CHARS])
        return code, code in self.codes and confidence >= self.min_confidence

    @cached_property
    def _identifier(self) -> _Identifier:
        identifier = _load_identifier()
        for code in self.codes:
            if code not in identifier.labels:
                hint = nearest(code, identifier.labels)
                raise UnknownNameError(
                    f"clean.languages: no language has the code {code!r}", hint=hint
                )
        return identifier

    def __getstate__(self) -> dict[str, object]:
        return {"codes": self.codes, "min_confidence": self.min_confidence}


@cache
def _load_identifier() -> _Identifier:
    """Once per process: unpacking the model takes longer than many texts."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ConfigError(
            "clean.languages needs the package py3langid", hint="pip install py3langid"
        ) from None
    identifier: _Identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier
