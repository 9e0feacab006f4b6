"""How work shows itself: a line per stage, a live bar on a terminal, else a line now and then.

Used by the command line and the demo, fed with a run's events. Everything goes to the given
stream (stderr), so that results on stdout stay clean. Invariant: what models, servers and other
programs said reaches the stream harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from mulm.terminal_text import harmless

_QUIET_EVERY_S = 5.0
_SHOWN_METRICS: Mapping[str, str] = {
    "loss": "loss {:.3f}",
    "validation_bits_per_byte": "val bits per byte {:.3f}",
    "tokens_per_s": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
}
"""How the newest number of each metric is shown, in this order."""
_SAMPLE_CHARS = 100


class Progress:
    """Shows stages and their progress on one stream."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_live = stream.isatty()
        self._bar: tqdm[Any] | None = None
        self._bar_stage = ""
        self._last_note = ""
        self._last_line_s = -_QUIET_EVERY_S
        self._metrics: dict[str, float] = {}

    def stage(self, name: str, seconds: float, text: str = "") -> None:
        """One finished stage: its name, its time, its outcome."""
        self.line(f"{name:<12} {seconds:6.1f} s  {text}".rstrip())

    @contextmanager
    def timed(self, name: str) -> Iterator[Callable[[str], None]]:
        """A stage line when the block ends well; the block may say how it went."""
        started_s, said = self._clock(), [""]

        def say(text: str) -> None:
            said[0] = text

        yield say
        self.stage(name, self._clock() - started_s, said[0])

    def note(self, text: str) -> None:
        """A line about what goes on, unless it is the same as the one before."""
        if text.strip() and text != self._last_note:
            self._last_note = text
            self.line(f"  {text}")

    def line(self, text: str) -> None:
        """One line that stays."""
        self.clear()
        print(harmless(text), file=self._stream, flush=True)

    def clear(self) -> None:
        """Take a live bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Show one event of a run; kinds that say nothing to a person are passed over."""
        if kind == "progress":
            self._advance(data)
        elif kind == "stage":
            self.stage(str(data["name"]), float(data["seconds"]), str(data.get("text", "")))
        elif kind == "metric":
            self._metrics |= {name: data[name] for name in _SHOWN_METRICS if name in data}
        elif kind == "sample":
            self.line(f"  step {data['step']}: {_sample(data)}")
        elif kind == "phase" and data["phase"] == "pausing":
            self.line("  asked to pause: it stops after a checkpoint, or where it is")
        elif kind == "resumed":
            self.line(f"  goes on from step {data['step']}")
        elif kind == "choice":
            for text in (f"auto: {data['reason']}", *data["warnings"]):
                self.line(f"  {text}")
        elif kind == "log":
            self.line(f"  {data['text']}")

    def _advance(self, data: Mapping[str, Any]) -> None:
        if self._is_live:
            self._draw(data)
        elif self._clock() - self._last_line_s >= _QUIET_EVERY_S:
            self._last_line_s = self._clock()
            print(f"  {_describe(data)}{self._suffix()}", file=self._stream, flush=True)

    def _draw(self, data: Mapping[str, Any]) -> None:
        stage, total = str(data["stage"]), data.get("total")
        bar = self._bar
        if bar is None or self._bar_stage != stage:
            self.clear()
            self._bar_stage = stage
            bar = self._bar = tqdm(
                total=total,
                initial=data["done"],
                desc=f"  {stage}",
                unit=str(data.get("unit", "")),
                file=self._stream,
                leave=False,
                dynamic_ncols=True,
            )
        bar.n = data["done"]
        bar.set_postfix_str(self._suffix().strip(", "), refresh=False)
        bar.refresh()

    def _suffix(self) -> str:
        shown = [text.format(self._metrics[name]) for name, text in _SHOWN_METRICS.items()
                 if name in self._metrics]  # fmt: skip
        return "".join(f", {text}" for text in shown)


def _describe(data: Mapping[str, Any]) -> str:
    done, total, unit = data["done"], data.get("total"), data.get("unit", "")
    text = f"{data['stage']}: {done}/{total} {unit}" if total else f"{data['stage']}: {done} {unit}"
    if data.get("rate_per_s"):
        text += f", {data['rate_per_s']:.3g} {unit}/s"
    if data.get("eta_s") is not None:
        text += f", {data['eta_s']:.0f} s left"
    return text.strip()


def _sample(data: Mapping[str, Any]) -> str:
    """The end of a prompt and the beginning of what the model said, on one line."""
    prompt, text = (" ".join(str(data[part]).split()) for part in ("prompt", "text"))
    return f"{prompt[-_SAMPLE_CHARS // 2 :]} [{text[:_SAMPLE_CHARS]}]"
