"""Damage of encodings mended: "Ã©" is "é" again.

Called by `mulm.data.clean.prepare` if a recipe asks for it. It decides line by line, and lines of
ASCII alone cannot be damaged in this way.
"""

from __future__ import annotations

from mulm.errors import ConfigError


def repair(text: str) -> str:
    """Undo wrong decoding, as ftfy does; quotation marks, ligatures and entities stay.

    Raises:
        ConfigError: ftfy is not installed.
    """
    if text.isascii():
        return text
    try:
        from ftfy import TextFixerConfig, fix_text
    except ImportError:
        raise ConfigError("clean.repair needs the package ftfy", hint="pip install ftfy") from None
    config = TextFixerConfig(
        unescape_html=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        remove_terminal_escapes=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    lines = text.split("\n")
    return "\n".join([line if line.isascii() else fix_text(line, config) for line in lines])
