"""Answer a batch: `python -m jobs.batch --config FILE`, run as a Ray job.

Asks the served application for one request after the other of an uploaded file, several at a time.
Answers are lines of two files in the run's folder, which become files of the ledger at the end.
Invariants: an answer that stands there is not asked for again, so a run that was killed goes on; a
request that fails stops none of the others.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import httpx

from jobs.entry import JobContext, run_job
from jobs.generate import opened
from jobs.made_files import publish_file
from mulm.atomic import make_folder
from mulm.batch import WINDOW_S, BatchConfig, BatchRequest, LineProblem, read_batch
from mulm.errors import DataError, DeadlineError, MulmError, NotRunningError
from mulm.manifest import BlobEntry
from mulm.refs import new_id

CONCURRENCY = 16
_N_TRIES = 40
_MAX_WAIT_S = 30.0
_TELL_S = 1.0
_ERRORS_TOLD = 100
_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_OUTPUT, _ERRORS = "output", "errors"


class Client(Protocol):
    """Asks the served application."""

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Whatever the server answers. Raises NotRunningError where nobody does."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("batch", arguments, BatchConfig, answer_served)


def answer_served(context: JobContext, config: BatchConfig) -> dict[str, Any]:
    """Answer a batch by what this installation serves."""
    from jobs.journey import served_client

    client = served_client(context.home, config.key_id)
    try:
        return answer(context, config, client)
    finally:
        client.close()


def answer(
    context: JobContext,
    config: BatchConfig,
    client: Client,
    *,
    concurrency: int = CONCURRENCY,
    now_s: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Answer all that is not answered yet; returns the run's result.

    Raises:
        DataError: lines of the file are no requests; nothing was asked.
        NotFoundError, CorruptError: the file is gone or damaged.
    """
    assert config.input is not None, "the caller resolves the file"
    content = config.input
    path = context.store.path(
        BlobEntry(name=config.input_file, sha256=content.sha256, size_bytes=content.size_bytes)
    )
    total = _checked(context, path, config.endpoint)
    folder = context.home.run(context.run_id)
    make_folder(folder)
    deadline_s = context.facts.run(context.run_id).created_s + WINDOW_S
    asking = _Asking(client, config.endpoint, deadline_s, now_s, sleep)
    files = {name: folder / f"{name}.jsonl" for name in (_OUTPUT, _ERRORS)}
    try:
        with opened(files[_OUTPUT]) as out, opened(files[_ERRORS]) as failed:
            written = _Written.of(context, total, out, failed, files, now_s)
            _ask_all(asking, read_batch(path, config.endpoint), written, concurrency)
            written.tell()
    finally:
        ids = {name: _published(context, name, file) for name, file in files.items()}
        context.emit("files", **ids)
    return {
        "output_file": ids[_OUTPUT],
        "error_file": ids[_ERRORS],
        "total": total,
        "completed": written.n_done - written.n_failed,
        "failed": written.n_failed,
        "expired": asking.has_expired,
    }


def _checked(context: JobContext, path: Path, endpoint: str) -> int:
    """How many requests the file has."""
    total, problems = 0, list[LineProblem]()
    for found in read_batch(path, endpoint):
        if isinstance(found, BatchRequest):
            total += 1
        elif problems and found.code == "empty_file":
            continue  # it has lines, of which none is a request
        elif len(problems) < _ERRORS_TOLD:
            problems.append(found)
    if problems:
        context.emit("invalid", errors=[asdict(problem) for problem in problems])
        first = problems[0]
        raise DataError(
            f"the file is no batch: line {first.line}: {first.message}",
            hint="each line is an object with custom_id, method, url and body",
        )
    return total


@dataclass(slots=True)
class _Asking:
    """Asks for one request, until there is an answer or the batch has expired."""

    client: Client
    endpoint: str
    deadline_s: float
    now_s: Callable[[], float]
    sleep: Callable[[float], None]
    has_expired: bool = False

    def line(self, request: BatchRequest) -> dict[str, Any]:
        """The line of an answer; with an `error` where there is none."""
        told = {"id": new_id("batch_req"), "custom_id": request.custom_id}
        try:
            reply = self._reply(request)
            response = {
                "status_code": reply.status_code,
                "request_id": reply.headers.get("x-request-id", ""),
                "body": reply.json(),
            }
        except MulmError as error:
            code = "batch_expired" if isinstance(error, DeadlineError) else error.code
            return told | {"response": None, "error": {"code": code, "message": error.message}}
        except ValueError as error:  # half a character, or an answer that is no JSON
            described = {"code": DataError.code, "message": str(error)}
            return told | {"response": None, "error": described}
        return told | {"response": response, "error": None}

    def _reply(self, request: BatchRequest) -> httpx.Response:
        for n_tries in range(_N_TRIES):
            if self.now_s() >= self.deadline_s:
                self.has_expired = True
                raise DeadlineError("the batch has expired before this request was answered")
            is_last = n_tries + 1 == _N_TRIES
            wait_s = min(1.0 * 2**n_tries, _MAX_WAIT_S)
            try:
                reply = self.client.post(self.endpoint, request.body)
            except NotRunningError:
                if is_last:
                    raise
            else:
                if reply.status_code not in _BUSY or is_last:
                    return reply
                asked = reply.headers.get("retry-after", "")
                wait_s = max(wait_s, float(asked)) if asked.isdigit() else wait_s
            self.sleep(min(wait_s, _MAX_WAIT_S))
        raise AssertionError("unreachable")


@dataclass(slots=True)
class _Written:
    """What stands in the two files."""

    context: JobContext
    total: int
    out: TextIO
    failed: TextIO
    done: set[str]
    n_failed: int
    now_s: Callable[[], float]
    told_s: float = 0.0

    @classmethod
    def of(
        cls, context: JobContext, total: int, out: TextIO, failed: TextIO,
        files: Mapping[str, Path], now_s: Callable[[], float],
    ) -> _Written:  # fmt: skip
        answered, wrong = (_ids_in(files[name]) for name in (_OUTPUT, _ERRORS))
        return cls(context, total, out, failed, answered | wrong, len(wrong), now_s)

    @property
    def n_done(self) -> int:
        return len(self.done)

    def add(self, line: dict[str, Any]) -> None:
        """Write a line, at once."""
        response = line["response"]
        is_good = response is not None and response["status_code"] == httpx.codes.OK
        file = self.out if is_good else self.failed
        file.write(json.dumps(line) + "\n")
        file.flush()
        self.done.add(line["custom_id"])
        self.n_failed += not is_good
        if self.now_s() - self.told_s >= _TELL_S:
            self.tell()

    def tell(self) -> None:
        """How far it is."""
        self.told_s = self.now_s()
        self.context.emit(
            "progress", stage="batch", done=self.n_done, total=self.total, unit="requests",
            failed=self.n_failed,
        )  # fmt: skip


def _ask_all(
    asking: _Asking,
    requests: Iterator[BatchRequest | LineProblem],
    written: _Written,
    concurrency: int,
) -> None:
    """Ask for what is not done, so many at a time; lines are written in the order they end in."""
    running: set[Future[dict[str, Any]]] = set()
    pool = ThreadPoolExecutor(concurrency)
    written.tell()
    try:
        for request in requests:
            assert isinstance(request, BatchRequest), "the file was checked"
            if request.custom_id in written.done:
                continue
            running.add(pool.submit(asking.line, request))
            if len(running) >= concurrency:
                running = _collected(running, written)
        while running:
            running = _collected(running, written)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who stops does not wait for long answers


def _collected(
    running: set[Future[dict[str, Any]]], written: _Written
) -> set[Future[dict[str, Any]]]:
    ended, left = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        written.add(future.result())
    return left


def _ids_in(path: Path) -> set[str]:
    with path.open(encoding="utf-8") as file:
        return {json.loads(line)["custom_id"] for line in file}


def _published(context: JobContext, name: str, path: Path) -> str | None:
    """What stands in a file so far, as a file that clients can fetch; None if that is nothing."""
    if not path.exists() or not path.stat().st_size:
        return None
    label = f"{context.run_id}_{name}.jsonl"
    return publish_file(context, name, path, label, "batch_output")


if __name__ == "__main__":
    sys.exit(main())
