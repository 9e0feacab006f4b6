"""`mulm demo`: the whole journey on bundled text, from raw books to answers over HTTP.

Each stage is the step that the command line takes; a second run continues from finished ones.
Invariant: what the demo started is stopped when it returns, also after an error or Ctrl-C;
an application that was up before stays up.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, TextIO

from actors.cluster import connect
from jobs.chat import answer, choose_model, talk
from jobs.conversation import ChatOptions
from jobs.journey import Journey
from jobs.progress import Progress
from jobs.up import start, stop
from mulm.chat import Message
from mulm.errors import JobFailedError, NotRunningError
from mulm.home import Home
from mulm.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "sample.yaml"
CONFIG = ROOT / "examples" / "demo.yaml"
ALIAS = "live"
PROMPTS = (
    "The Queen of Hearts looked at the Wizard, and",
    "It was a cold morning when Holmes",
    "There was once a king who had",
)
_TALK_TOKENS = 60
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(
    home: Home, progress: Progress, source: TextIO = sys.stdin, out: TextIO = sys.stdout
) -> dict[str, Any]:
    """Run all stages; returns what was made and measured.

    Args:
        home: The installation.
        progress: Shows the stages.
        source: Where prompts come from: a terminal, or fixed ones are used.
        out: Where the answers go.

    Raises:
        MulmError: the stage that failed.
    """
    started_s = time.monotonic()
    with _application(home, progress), Journey(home, progress, stops_jobs=True) as journey:
        with chdir(ROOT):  # the recipe names the bundled texts from here
            data = journey.build_dataset(RECIPE)
        model = journey.train(CONFIG, [f"dataset={data['dataset']}"])
        scores = journey.evaluate(model["model"])
        _require_quality(scores)
        journey.promote(model["model"], ALIAS)
        journey.serve(model["model"])
        _talk(journey, progress, source, out)
    seconds = round(time.monotonic() - started_s, 1)
    progress.line(f"done in {seconds:.0f} s; README.md tells what else there is")
    return {**data, **model, **scores, "seconds": seconds}


@contextmanager
def _application(home: Home, progress: Progress) -> Iterator[None]:
    """The application: the one that is up, else one of our own that ends with us."""
    if _is_up(home):
        progress.line("the application is up already: the demo uses it and leaves it up")
        yield
        return
    progress.note("starting the local Ray application")
    with progress.timed("up") as say:
        info = start(home, Settings.from_env())
        say(f"Ray dashboard {info.dashboard_url}")
    try:
        yield
    finally:
        with _undisturbed(), progress.timed("down"):
            stop(home)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not keep us from ending what we started."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_up(home: Home) -> bool:
    try:
        connect(home)
    except NotRunningError:
        return False
    return True


def _require_quality(scores: dict[str, Any]) -> None:
    if not scores["passes"]:
        raise JobFailedError(
            f"the gate refuses the model: {scores['verdict']}",
            hint="the demo expects the model to win: was its config changed?",
        )


def _talk(journey: Journey, progress: Progress, source: TextIO, out: TextIO) -> None:
    """A chat on a terminal, else three fixed prompts, streamed."""
    client = journey.client()
    try:
        options = ChatOptions(choose_model(client, None), max_tokens=_TALK_TOKENS, seed=1)
        if source.isatty():
            talk(client, options, source, out)
            return
        for prompt in PROMPTS:
            with progress.timed("chat"):
                out.write(f"\n> {prompt}\n")
                answer(client, options, [Message(role="user", content=prompt)], out)
    finally:
        client.close()
