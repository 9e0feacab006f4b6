from __future__ import annotations

import pickle
import sys

import pytest

from mulm.data.language import Languages, _load_identifier
from mulm.errors import ConfigError, UnknownNameError

TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    languages = Languages(["en"], 0.5)
    assert languages.identify(TEXTS[code]) == (code, code == "en")
    assert pickle.loads(pickle.dumps(languages)).identify(TEXTS[code])[0] == code


def test_doubt_is_no_reason_to_keep() -> None:
    assert Languages(["en"], 0.65).identify("12 34")[1] is False


def test_unknown_code() -> None:
    with pytest.raises(UnknownNameError, match="'eng'"):
        Languages(["eng"], 0.5).identify("Hello")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    _load_identifier.cache_clear()
    with pytest.raises(ConfigError, match="py3langid"):
        Languages(["en"], 0.5).identify("Hello")
