"""`mulm generate`: answers many prompts of a file, or one, through the served application.

A file holds a prompt a line, or in `.jsonl` an object a line: `prompt` or `messages`, perhaps an
`id`, and any parameter of the route. Answers are written as they end, a line each. Invariants: an
answer that stands in the output is not asked for again; a line that cannot be answered stops none
of the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx

from jobs.chat_client import ChatClient, check
from mulm.errors import (
    ConfigError,
    ConflictError,
    ContextLengthError,
    DataError,
    MulmError,
    NotFoundError,
    UnknownNameError,
)

_N_TRIES = 8
_LATER = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)
_MAX_WAIT_S = 30.0
_WRONG = frozenset({ConfigError.code, UnknownNameError.code, ContextLengthError.code})
"""What a server says of a line that it will never answer."""


@dataclass(frozen=True, slots=True)
class Order:
    """One line of the input: what to ask, or why it cannot be asked."""

    id: str
    body: Mapping[str, Any]
    error: MulmError | None = None

    @property
    def path(self) -> str:
        """The route that answers it."""
        return "/v1/chat/completions" if "messages" in self.body else "/v1/completions"


@dataclass(frozen=True, slots=True)
class Totals:
    """What became of all orders."""

    n_answered: int
    n_failed: int
    n_skipped: int
    n_wrong: int = 0
    """Of those that failed: lines that are wrong, which asking again does not mend."""


def generate(
    client: ChatClient,
    orders: Iterable[Order],
    out: TextIO,
    *,
    done: frozenset[str] = frozenset(),
    concurrency: int = 16,
    sleep: Callable[[float], None] = time.sleep,
) -> Totals:
    """Ask for all that is not done, several at a time, and write what comes.

    Args:
        client: Of the served application.
        orders: What to ask; read as far ahead as there are requests at a time.
        out: A line of JSON for each order, in the order in which they end.
        done: Ids of orders that are answered already.
        concurrency: Requests at a time.
        sleep: Waits, where the server is busy.
    """
    n_answered = n_failed = n_skipped = n_wrong = 0
    running: set[Future[dict[str, Any]]] = set()
    with ThreadPoolExecutor(concurrency) as pool:
        for order in orders:
            if order.id in done and order.error is None:
                n_skipped += 1
                continue
            n_wrong += order.error is not None
            running.add(pool.submit(_answer, client, order, sleep))
            if len(running) >= concurrency:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    n_failed += _write(out, future.result())
                    n_wrong += _is_wrong(future.result())
                n_answered += len(ended)
        for future in as_completed(running):
            n_failed += _write(out, future.result())
            n_wrong += _is_wrong(future.result())
            n_answered += 1
    return Totals(n_answered - n_failed, n_failed, n_skipped, n_wrong)


def read_orders(path: Path, defaults: Mapping[str, Any], as_chat: bool) -> Iterator[Order]:
    """The orders of a file; a line that is none becomes one that fails.

    Raises:
        NotFoundError: no such file.
        ConfigError: it cannot be read as UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8") as source:
            line_of: dict[str, int] = {}
            for number, line in enumerate(source, 1):
                if line.strip():
                    order = _order(line, str(number), path.suffix == ".jsonl", defaults, as_chat)
                    before = line_of.setdefault(order.id, number)
                    yield order if before == number else _twice(order, number, before)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {str(path)!r}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {str(path)!r}: {getattr(error, 'strerror', error)}",
            hint="a file of UTF-8 text, a prompt a line",
        ) from None


def done_in(path: Path) -> frozenset[str]:
    """Ids of the answers that stand in an output; a line cut short and errors do not count."""
    found = set()
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "error" not in value:
                found.add(str(value.get("id")))
    return frozenset(found)


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """An output to append to, by one command at a time; a line cut short by a crash is removed.

    Raises:
        ConfigError: it cannot be written.
        ConflictError: another command writes to it.
    """
    try:
        with path.open("a+", encoding="utf-8", newline="\n") as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(f"another command writes to {str(path)!r}") from None
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
            yield out
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(path)!r}: {error.strerror}",
            hint="name a path in a folder that you may write to",
        ) from None


def one_order(prompt: str, defaults: Mapping[str, Any], as_chat: bool) -> Order:
    """The order of a single prompt."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if as_chat else {"prompt": prompt}
    return Order("1", {**defaults, **asked})


def ask(client: ChatClient, order: Order, sleep: Callable[[float], None] = time.sleep) -> Any:
    """The server's whole answer; a busy one, or one whose limit is reached, is asked again.

    Raises:
        MulmError: what the server tells, or NotRunningError.
    """
    for n_tries in range(_N_TRIES):
        reply = client.post(order.path, order.body)
        try:
            check(reply)
        except MulmError:
            if reply.status_code not in _LATER or n_tries + 1 == _N_TRIES:
                raise
            sleep(_wait_s(reply.headers.get("retry-after", ""), n_tries))
        else:
            return reply.json()
    raise AssertionError("unreachable")


def text_of(answer: Any) -> str:
    """What the first choice says."""
    choice = answer["choices"][0]
    found: str = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    return found


def _order(
    line: str, number: str, is_json: bool, defaults: Mapping[str, Any], as_chat: bool
) -> Order:
    if not is_json:
        order = one_order(line.rstrip("\r\n"), defaults, as_chat)
        return Order(number, order.body)
    try:
        value = json.loads(line, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        told = f"line {number} holds half a character (a lone surrogate)"
        return Order(number, {}, DataError(told))
    except ValueError as error:
        return Order(number, {}, DataError(f"line {number} is not JSON: {error}"))
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        told = f"line {number} is no object with prompt or messages"
        return Order(number, {}, DataError(told))
    name = str(value.pop("id", number))
    if "stream" in value:
        return Order(name, {}, DataError(f"line {number}: answers in a file are not streamed"))
    if as_chat and isinstance(value.get("prompt"), str):
        value["messages"] = [{"role": "user", "content": value.pop("prompt")}]
    return Order(name, {**defaults, **value})


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _twice(order: Order, number: int, before: int) -> Order:
    """What cannot be asked, since nobody could tell its answer from another's."""
    told = f"line {number} has the id {order.id!r}, as line {before} has"
    return Order(order.id, {}, DataError(told))


def _answer(client: ChatClient, order: Order, sleep: Callable[[float], None]) -> dict[str, Any]:
    try:
        if order.error is not None:
            raise order.error
        answer = ask(client, order, sleep)
    except MulmError as error:
        return {"id": order.id, "error": {"code": error.code, "message": error.message}}
    except ValueError:
        told = "the server's answer is no JSON"
        return {"id": order.id, "error": {"code": DataError.code, "message": told}}
    choice = answer["choices"][0]
    return {
        "id": order.id,
        "text": text_of(answer),
        "finish_reason": choice["finish_reason"],
        "usage": answer["usage"],
    } | ({"choices": answer["choices"]} if len(answer["choices"]) > 1 else {})


def _write(out: TextIO, result: dict[str, Any]) -> bool:
    """One line, at once; whether it is an error."""
    out.write(json.dumps(result, ensure_ascii=False) + "\n")
    out.flush()
    if "error" in result:
        print(f"{result['id']}: {result['error']['message']}", file=sys.stderr)
    return "error" in result


def _is_wrong(result: dict[str, Any]) -> bool:
    return "error" in result and result["error"]["code"] in _WRONG


def _wait_s(told: str, n_tries: int) -> float:
    asked_s = float(told) if told.isdigit() else 1.0
    return min(asked_s * (1 << n_tries), _MAX_WAIT_S)
