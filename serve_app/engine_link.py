"""The ingress's end of the connection to one engine host, and what is known of the engine by it.

Made by `serve_app.engine_links` when an engine connects, asked by `serve_app.engine_line`.
Invariants: nobody is listened to before he has said the ingress's secret; a mailbox gets what
belongs to its own request only, in order; when the connection ends each gets an `EngineLostError`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Sequence

from mulm.errors import MulmError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.chunk_codec import decode_chunk
from serve_app.engine_client import EngineLostError
from serve_app.engine_report import EngineReport, Offer, decode_reports
from serve_app.kept_pages import KeptPages
from serve_app.line_connection import MAX_LINE_BYTES, LineConnection
from serve_app.prefix_key import PIECE_TOKENS
from serve_app.request_codec import decode_error, encode_request

GREETING_TIMEOUT_S = 5.0
FRESH_S = 5.0
"""An engine that was not heard for as long is asked only where there is no other."""

_MAX_GREETING_BYTES = 4096

Mailbox = asyncio.Queue[TokenChunk | MulmError]
"""A request's chunks, and the error that ends it."""

# How lines begin that are no chunk; `serve_app.ingress_links` has the other end.
ERROR, LEAVING = b"!", b"."
REQUEST, CANCEL, WAITING = b"+", b"-", b"="


class EngineLink:
    """One engine host, as an ingress knows it.

    Args:
        secret: Has to be said first.
        on_change: Called when it is known, has reported, leaves or is gone.
        clock: Seconds.
    """

    def __init__(
        self,
        secret: str,
        on_change: Callable[[EngineLink], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret, self._on_change, self._clock = secret, on_change, clock
        self.connection = LineConnection(self._hear, self._lost, _MAX_GREETING_BYTES)
        self.offer: Offer | None = None
        self.reports: list[EngineReport] = []
        self.is_leaving = False
        """It ends what it has and takes nothing new."""
        self._is_known, self._is_full = False, False
        self._mailboxes: dict[str, Mailbox] = {}
        self._kept = KeptPages()
        self._n_elsewhere = self._n_new_tokens = 0
        self._told_waiting = (0, 0)
        self._heard_s = clock()
        greeting = asyncio.get_running_loop().call_later
        self._greeting = greeting(GREETING_TIMEOUT_S, self.connection.close)

    @property
    def name(self) -> str:
        """Of the replica."""
        assert self.offer is not None
        return self.offer.name

    @property
    def is_usable(self) -> bool:
        """Whether it may be asked at all."""
        return self.offer is not None and self.connection.is_open and not self.is_leaving

    @property
    def is_fresh(self) -> bool:
        """Whether it was heard lately."""
        return self._clock() - self._heard_s < FRESH_S

    @property
    def can_take(self) -> bool:
        """Whether it has a place, as far as is known here."""
        has_place = self.offer is not None and self._n_requests < self.offer.n_places
        return self.is_usable and has_place and not self._is_full

    @property
    def has_free_slot(self) -> bool:
        """Whether a request would begin at once."""
        return self.offer is not None and self._n_requests < self.offer.n_slots

    @property
    def load(self) -> float:
        """How full it is, by slots or by pages, whichever is more; what waits there counts."""
        assert self.offer is not None
        stats = [report.stats for report in self.reports]
        n_pages = sum(each.n_pages for each in stats)
        used = sum(each.n_pages - each.n_free_pages for each in stats)
        n_tokens = sum(each.waiting_tokens for each in stats) + self._n_new_tokens
        pages = (used + n_tokens / self.offer.page_tokens) / n_pages if n_pages else 0.0
        return max(self._n_requests / self.offer.n_slots, pages)

    @property
    def n_tokens(self) -> int:
        """What all its pages hold; 0 where it is not known yet."""
        assert self.offer is not None
        n_pages = max((report.stats.n_pages for report in self.reports), default=0)
        return n_pages * self.offer.page_tokens

    def n_kept(self, marks: Sequence[int]) -> int:
        """How many pieces of a prompt's beginning it has read lately, as far as is known here."""
        return self._kept.n_found(marks)

    def note_kept(self, marks: Sequence[int]) -> None:
        """It reads these; it keeps no more than its pages hold."""
        self._kept.note(marks, self.n_tokens // PIECE_TOKENS or None)

    def open(self, model_id: str, request: GenerateRequest) -> Mailbox:
        """Send a request; its chunks, or an error, come into the mailbox until it is closed."""
        assert request.request_id not in self._mailboxes, "two requests have one id"
        mailbox = self._mailboxes[request.request_id] = Mailbox()
        self._n_new_tokens += len(request.prompt_ids)
        self.connection.send(REQUEST + encode_request(model_id, request) + b"\n")
        return mailbox

    def close(self, request_id: str, *, cancels: bool) -> None:
        """Read no more of a request, and have it end there if it has not."""
        if self._mailboxes.pop(request_id, None) is not None:
            self._is_full = False
            if cancels:
                self.connection.send(CANCEL + request_id.encode() + b"\n")

    def is_full(self) -> None:
        """It has refused a request, as other ingresses fill it too."""
        self._is_full = True

    def tell_waiting(self, n_requests: int, n_tokens: int) -> None:
        """Say how much waits at this ingress for its share to count there: requests, and tokens."""
        if (n_requests, n_tokens) != self._told_waiting:
            self._told_waiting = (n_requests, n_tokens)
            self.connection.send(WAITING + f"{n_requests} {n_tokens}\n".encode())

    @property
    def _n_requests(self) -> int:
        return len(self._mailboxes) + self._n_elsewhere

    def _hear(self, line: bytes) -> None:
        if self.offer is None:
            self._greet(line)
            return
        self._heard_s = self._clock()
        match line[:1]:
            case b"[":
                chunk = decode_chunk(line)
                self._deliver(chunk.request_id, chunk)
            case b"{":
                self._note(decode_reports(line))
            case b"!":
                self._deliver(*decode_error(line[1:]))
            case b".":
                self.is_leaving = True
                self._on_change(self)
            case _:
                raise ValueError("an engine says what nobody understands")

    def _greet(self, line: bytes) -> None:
        if not self._is_known:
            if not hmac.compare_digest(line, self._secret.encode()):
                raise ValueError("somebody who does not know the secret")
            self._is_known = True
            return
        self._greeting.cancel()
        self.connection.max_line_bytes = MAX_LINE_BYTES
        self.offer = Offer.decode(line)
        self._on_change(self)

    def _deliver(self, request_id: str, item: TokenChunk | MulmError) -> None:
        # Nobody waits where the client has left in the meantime.
        if (mailbox := self._mailboxes.get(request_id)) is not None:
            mailbox.put_nowait(item)

    def _note(self, reports: list[EngineReport]) -> None:
        self.reports = reports
        n_there = sum(each.stats.n_running + each.stats.n_waiting for each in reports)
        self._n_elsewhere = max(0, n_there - len(self._mailboxes))
        self._n_new_tokens, self._is_full = 0, False
        self._on_change(self)

    def _lost(self) -> None:
        self._greeting.cancel()
        self.reports, self.is_leaving = [], True
        for mailbox in self._mailboxes.values():
            mailbox.put_nowait(
                EngineLostError("the engine went away", hint="try again in a moment")
            )
        self._on_change(self)
