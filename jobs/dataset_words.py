"""How sizes, ages, bars and foreign text are written for a person.

Used by the verbs of `mulm data`. Pure. Invariant: text of a corpus reaches a terminal only through
`one_line` or `mulm.terminal_text.harmless`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mulm.data.stats import Bar
from mulm.terminal_text import harmless

_BAR_CHARS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_AGES = ((86_400 * 365, "y"), (86_400, "d"), (3_600, "h"), (60, "min"))


def size_text(size_bytes: float) -> str:
    """Bytes with three digits or so: `62.4 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes:.0f} B"


def age_text(seconds: float) -> str:
    """A time span in its largest unit: `3 d`."""
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return "now"


def one_line(text: str, size: int = 100) -> str:
    """The beginning of a text on one line, harmless."""
    flat = " ".join(text[: 4 * size].split())
    return harmless(flat if len(flat) <= size else flat[: size - 3] + "...")


def bar_lines(bars: Sequence[Bar], limit: int = 20) -> list[str]:
    """A line for each bar: name, count, share, bytes; those beyond the limit are summed up."""
    total = sum(bar.count for bar in bars) or 1
    longest = max((bar.count for bar in bars), default=0) or 1
    lines = []
    for bar in limited(bars, limit):
        drawn = _drawn(min(1.0, bar.count / longest))
        size = f"  {size_text(bar.size_bytes):>9}" if bar.size_bytes else ""
        name = one_line(bar.name, 20)
        lines.append(f"  {name:<20} {bar.count:>11,} {bar.count / total:>6.1%}{size}  {drawn}")
    return [line.rstrip() for line in lines]


def limited(bars: Sequence[Bar], limit: int) -> list[Bar]:
    """At most so many bars, the last one for all that are left."""
    if len(bars) <= limit:
        return list(bars)
    rest = bars[limit - 1 :]
    return [
        *bars[: limit - 1],
        Bar(f"{len(rest)} others", sum(b.count for b in rest), sum(b.size_bytes for b in rest)),
    ]


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first on the left, numbers on the right."""
    cells = [list(row) for row in rows]
    if not cells:
        return []
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(_aligned(text, width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _aligned(text: str, width: int) -> str:
    return text.rjust(width) if text[:1].isdigit() else text.ljust(width)


def _drawn(share: float) -> str:
    whole, part = divmod(round(share * _BAR_CHARS * 8), 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")
