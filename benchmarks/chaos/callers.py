"""Clients that ask all the time, and what each answer was.

Run by the cases beside a fault. Invariant: every answer is of one `Kind`, and what is not clean is
kept with its words.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from benchmarks.chaos.world import SERVED, World, wait_for

Kind = Literal["ok", "come back", "no connection", "cut", "told inside", "hang", "unclean"]
"""`come back` is 503 with Retry-After and the error object; `cut` a connection that ended in the
middle of an answer; `told inside` an error that came as an event of a stream."""

HANG_S = 30.0
HELD_UP_S = 2.0
"""A right answer that said nothing for longer was held up by the fault."""
N_IN_A_ROW = 5
_PAUSE_S = 0.05
_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent and ended (seconds of the monotonic clock), and how."""

    begun_s: float
    ended_s: float
    kind: Kind
    words: str = ""
    stalled_s: float = 0.0
    """The longest time without a sign of life."""


class Callers:
    """Asks for completions, whole and streamed, and the control API, each in a thread of its own.

    Args:
        world: What is asked.
        pause_s: Between two requests of a thread.
    """

    def __init__(self, world: World, pause_s: float = _PAUSE_S) -> None:
        self._world, self._pause_s = world, pause_s
        self.answers: dict[str, list[Answer]] = {"whole": [], "stream": [], "control": []}
        self._is_over = threading.Event()
        asks: dict[str, Callable[[httpx.Client], Answer]] = {
            "whole": _whole, "stream": _stream, "control": _control,
        }  # fmt: skip
        self._threads = [
            threading.Thread(target=self._ask_on, args=(name, ask), daemon=True)
            for name, ask in asks.items()
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(2 * HANG_S)

    def count(self, since_s: float = 0.0) -> Counter[str]:
        """Answers by kind."""
        return Counter(answer.kind for answer in self._all() if answer.ended_s >= since_s)

    def unclean(self, allowed: Iterable[Kind]) -> list[str]:
        """What was neither right nor a clean refusal."""
        clean = {"ok", "come back", "told inside", *allowed}
        return [f"{a.kind}: {a.words}" for a in self._all() if a.kind not in clean]

    def wait_for_answers(self, since_s: float, timeout_s: float) -> float:
        """Wait until all three are answered again; returns how long after `since_s` that was.

        Answered again means: so many in a row, and none that fails since. Raises TimeoutError.
        """

        def again() -> bool:
            return all(_n_last_ok(answers, since_s) >= N_IN_A_ROW for answers in self._lists())

        wait_for(again, timeout_s, "answers")
        return self.answered_again_s(since_s)

    def answered_again_s(self, since_s: float) -> float:
        """From `since_s` to the first right answer after the last wrong one, of the worst door."""
        return max(_again_s(answers, since_s) for answers in self._lists())

    def median_s(self, name: str, since_s: float) -> float:
        """How long the middle one of the right answers at a door took."""
        took = sorted(
            a.ended_s - a.begun_s
            for a in list(self.answers[name])
            if a.kind == "ok" and a.begun_s >= since_s
        )
        return round(took[len(took) // 2], 3) if took else 0.0

    def slowest_s(self) -> float:
        """The longest that anybody waited for a sign of life."""
        return max((a.stalled_s for a in self._all()), default=0.0)

    def _ask_on(self, name: str, ask: Callable[[httpx.Client], Answer]) -> None:
        headers = {"Authorization": f"Bearer {self._world.key}"}
        while not self._is_over.is_set():
            with httpx.Client(
                base_url=self._world.url, headers=headers, timeout=HANG_S, trust_env=False
            ) as client:
                self.answers[name].append(_timed(ask, client))
            self._is_over.wait(self._pause_s)

    def _lists(self) -> list[list[Answer]]:
        return [list(answers) for answers in self.answers.values()]

    def _all(self) -> list[Answer]:
        return [answer for answers in self._lists() for answer in answers]


def _timed(ask: Callable[[httpx.Client], Answer], client: httpx.Client) -> Answer:
    begun_s = time.monotonic()

    def ended(kind: Kind, error: Exception) -> Answer:
        now_s = time.monotonic()
        return Answer(begun_s, now_s, kind, repr(error)[:_SHOWN], now_s - begun_s)

    try:
        return ask(client)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return ended("no connection", error)
    except httpx.TimeoutException as error:
        return ended("hang", error)
    except httpx.TransportError as error:
        return ended("cut", error)


def _body(is_stream: bool) -> dict[str, Any]:
    """A stream is long enough that a fault finds one in its middle."""
    return {
        "model": SERVED, "prompt": "Hello there", "max_tokens": 600 if is_stream else 8,
        "temperature": 1.0 if is_stream else 0.0, "stream": is_stream,
    }  # fmt: skip


def _whole(client: httpx.Client) -> Answer:
    begun_s = time.monotonic()
    reply = client.post("/v1/completions", json=_body(False))
    return _judged(begun_s, reply.status_code, reply.headers, reply.text)


def _control(client: httpx.Client) -> Answer:
    begun_s = time.monotonic()
    reply = client.get("/api/v1/models")
    return _judged(begun_s, reply.status_code, reply.headers, reply.text, is_control=True)


def _stream(client: httpx.Client) -> Answer:
    begun_s = time.monotonic()
    with client.stream("POST", "/v1/completions", json=_body(True)) as reply:
        if reply.status_code != 200:
            text = reply.read().decode(errors="replace")
            return _judged(begun_s, reply.status_code, reply.headers, text)
        lines, gaps, last_s = [], [], begun_s
        for line in reply.iter_lines():
            now_s = time.monotonic()
            gaps.append(now_s - last_s)
            lines += [line] if line.startswith("data: ") else []
            last_s = now_s
    now_s = time.monotonic()
    if any(line.startswith('data: {"error"') for line in lines):
        return Answer(begun_s, now_s, "told inside", lines[-1][:_SHOWN])
    if not lines or lines[-1] != "data: [DONE]":
        return Answer(begun_s, now_s, "cut", "the stream ended without [DONE]")
    return Answer(begun_s, now_s, "ok", stalled_s=max(gaps))


def _judged(
    begun_s: float, status: int, headers: httpx.Headers, text: str, is_control: bool = False
) -> Answer:
    now_s = time.monotonic()
    if status == 200:
        return Answer(begun_s, now_s, "ok", stalled_s=now_s - begun_s)
    words = f"{status} {text[:_SHOWN]}"
    is_clean = status == 503 and "retry-after" in headers and _is_error(text, is_control)
    return Answer(begun_s, now_s, "come back" if is_clean else "unclean", words)


def _is_error(text: str, is_control: bool) -> bool:
    """Whether a body is what `docs/errors.md` promises."""
    try:
        told = json.loads(text)
    except ValueError:
        return False
    fields = {"code", "detail"} if is_control else {"message", "type", "code"}
    found: dict[str, Any] = told if is_control else told.get("error", {})
    return fields <= found.keys()


def _n_last_ok(answers: list[Answer], since_s: float) -> int:
    n = 0
    for answer in reversed(answers):
        if answer.kind != "ok" or answer.begun_s < since_s:
            break
        n += 1
    return n


def _again_s(answers: list[Answer], since_s: float) -> float:
    """To the end of the last disturbed answer, if it was right, else to the next right one."""
    disturbed = [
        a for a in answers if a.ended_s >= since_s and (a.kind != "ok" or a.stalled_s > HELD_UP_S)
    ]
    if not disturbed:
        return 0.0
    last = disturbed[-1]
    right = [a.ended_s for a in answers if a.kind == "ok" and a.ended_s >= last.ended_s]
    return min(right, default=float("inf")) - since_s
