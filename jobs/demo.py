"""`mulm demo`: the whole journey on bundled text, from raw books to answers over HTTP.

Each stage is the step that the command line takes; a second run continues from finished ones.
Invariant: what the demo started is stopped when it returns, also after an error or Ctrl-C;
an application that was up before stays up.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from actors.cluster import connect
from jobs.chat import ChatOptions, answer, choose_model, talk
from jobs.progress import Progress
from jobs.steps import Steps
from jobs.up import start, stop
from mulm.chat import Message
from mulm.errors import JobFailedError, NotRunningError
from mulm.home import Home
from mulm.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "sample.yaml"
CONFIG = ROOT / "examples" / "demo.yaml"
ALIAS = "live"
ALIASED = f"demo@{ALIAS}"
PROMPTS = (
    "The Queen of Hearts looked at the Wizard, and",
    "It was a cold morning when Holmes",
    "There was once a king who had",
)
_TALK_TOKENS = 60


def run_demo(home: Home, progress: Progress, source: TextIO = sys.stdin) -> dict[str, Any]:
    """Run all stages; returns what was made and measured.

    Raises:
        MulmError: the stage that failed.
    """
    started_s = time.monotonic()
    with _application(home, progress):
        steps = Steps(home, progress)
        data = steps.build_dataset(RECIPE)
        with _timed(progress, "train") as say:
            model = steps.train(CONFIG)
            say(f"{model['model']}: {model['parameters'] / 1e6:.1f} M parameters")
        with _timed(progress, "evaluate") as say:
            scores = steps.evaluate(model["model"], promote=ALIAS)
            say(
                f"{scores['bits_per_byte']:.3f} bits per byte on held-out text,"
                f" xz -9e needs {scores['xz_bits_per_byte']:.3f}"
            )
        _require_promotion(scores)
        progress.stage("register", 0.0, f"{model['model']} is {ALIASED}")
        with _timed(progress, "serve") as say:
            served = steps.serve(model["model"])
            say(f"{served['url']}/v1, key in {served['key_file']}")
        _talk(steps, progress, source)
    progress.line(f"done in {time.monotonic() - started_s:.0f} s; next: see README.md")
    return {**data, **model, **scores, "seconds": round(time.monotonic() - started_s, 1)}


@contextmanager
def _application(home: Home, progress: Progress) -> Iterator[None]:
    """The application: the one that is up, else one of our own that ends with us."""
    if _is_up(home):
        progress.line("the application is up already: the demo uses it and leaves it up")
        yield
        return
    try:
        with _timed(progress, "up") as say:
            info = start(home, Settings.from_env())
            say(f"Ray dashboard {info.dashboard_url}")
        yield
    finally:
        with _undisturbed(), _timed(progress, "down"):
            stop(home)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not keep us from ending what we started."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_up(home: Home) -> bool:
    try:
        connect(home)
    except NotRunningError:
        return False
    return True


@contextmanager
def _timed(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """A stage line when the block ends well; the block may say how it went."""
    started_s, said = time.monotonic(), [""]

    def say(text: str) -> None:
        said[0] = text

    yield say
    progress.stage(name, time.monotonic() - started_s, said[0])


def _require_promotion(scores: dict[str, Any]) -> None:
    if not scores["promoted"]:
        raise JobFailedError(
            f"the gate refused the model: {scores['verdict']}",
            hint="the demo expects the model to win: was its config changed?",
        )


def _talk(steps: Steps, progress: Progress, source: TextIO) -> None:
    """A chat on a terminal, else three fixed prompts, streamed."""
    client = steps.client()
    try:
        options = ChatOptions(choose_model(client, None), max_tokens=_TALK_TOKENS, seed=1)
        if source.isatty():
            talk(client, options, source, sys.stdout)
            return
        for prompt in PROMPTS:
            with _timed(progress, "chat"):
                sys.stdout.write(f"\n> {prompt}\n")
                answer(client, options, [Message(role="user", content=prompt)], sys.stdout)
    finally:
        client.close()
