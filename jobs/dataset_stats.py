"""The statistics of a version as bars in the terminal and as one page.

Called by `mulm data stats`. The page has no script, loads nothing and fits a phone. Invariant:
every text in it is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jobs.dataset_looks import Counted
from jobs.dataset_words import bar_lines, limited, one_line, size_text
from mulm.data.stats import Bar, Stats

_BARS_SHOWN = 20
_STYLE = """
:root { color-scheme: light dark; --bar: #3b82c4; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 50rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th { font-weight: normal; text-align: left; overflow-wrap: anywhere; width: 30%; }
td { padding-left: .5rem; }
td.n { text-align: right; font-variant-numeric: tabular-nums; width: 5rem; }
td div { background: var(--bar); height: .8rem; min-width: 1px; border-radius: 2px; }
p { margin: .2rem 0; opacity: .75; }
"""


def histograms(found: Counted) -> list[tuple[str, Sequence[Bar]]]:
    """Each histogram with its title."""
    told, unit = found.told, "packed piece" if found.is_packed else "document"
    return [
        ("bytes of a document", told.lengths),
        (f"tokens of a {unit}", told.tokens),
        ("language", told.languages),
        ("source", told.sources),
        ("rejected because", told.reasons),
    ]


def stats_lines(found: Counted) -> list[str]:
    """All histograms for a terminal."""
    lines = [f"{found.ref}: {_summary(found.told)}"]
    for title, bars in histograms(found):
        lines += ["", title, *(bar_lines(bars, _BARS_SHOWN) or ["  none"])]
    return lines


def stats_page(found: Counted) -> str:
    """All histograms as one HTML page."""
    body = "".join(f"<h2>{escape(title)}</h2>\n{_table(bars)}" for title, bars in histograms(found))
    ref = escape(found.ref)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{ref}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{ref}</h1>\n<p>{escape(_summary(found.told))}</p>\n"
        f"<p>{escape(found.dataset_id)}</p>\n{body}</html>\n"
    )


def _table(bars: Sequence[Bar]) -> str:
    if not bars:
        return "<p>none</p>\n"
    longest = max(bar.count for bar in bars) or 1
    rows = "".join(_row(bar, longest) for bar in limited(bars, _BARS_SHOWN))
    return f"<table>\n{rows}</table>\n"


def _row(bar: Bar, longest: int) -> str:
    size = f' title="{size_text(bar.size_bytes)}"' if bar.size_bytes else ""
    width = min(100.0, 100 * bar.count / longest)
    drawn = f'<div style="width:{width:.1f}%"></div>' if bar.count else ""
    name = escape(one_line(bar.name, 60))
    return f'<tr{size}><th>{name}</th><td class="n">{bar.count:,}</td><td>{drawn}</td></tr>\n'


def _summary(told: Stats) -> str:
    mean = f", {size_text(told.size_bytes / told.documents)} each" if told.documents else ""
    return (
        f"{told.documents:,} documents, {size_text(told.size_bytes)} of text{mean};"
        f" {told.rejected:,} rejected"
    )
