"""An engine at the other end of an `EngineLink`, without a network: it answers when it is told to.

It keeps all that it has read and generated, in pages, and counts what it did not have to read.
"""

from __future__ import annotations

import asyncio

from mulm.errors import MulmError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.chunk_codec import encode_chunk
from serve_app.engine_line import EngineLine
from serve_app.engine_link import ERROR, EngineLink
from serve_app.engine_report import Offer
from serve_app.request_codec import decode_request, encode_error

PAGE_TOKENS = 16


class LinkedEngine:
    """Connected to a line from the start; is the link's transport too."""

    def __init__(
        self, line: EngineLine, name: str, n_slots: int = 32, max_queued: int = 64
    ) -> None:
        self.name = name
        self.requests: dict[str, GenerateRequest] = {}
        """Those that have no end yet, in order."""
        self.n_read = self.n_found = 0
        self.told: list[bytes] = []
        """Lines that are neither requests nor cancels."""
        self._pages: set[tuple[int, ...]] = set()
        self.link = EngineLink("secret", lambda _link: line.serve())
        self.link.connection.connection_made(self)  # type: ignore[arg-type]
        offer = Offer("engine-tiny", name, n_slots, 2 * n_slots, max_queued, PAGE_TOKENS)
        self._say(b"secret")
        self._say(offer.encode())
        line.links.add(self.link)

    def answer(self, request_id: str, token_ids: tuple[int, ...] = (1,)) -> None:
        """End a request with these tokens."""
        request = self.requests.pop(request_id)
        self._keep((*request.prompt_ids, *token_ids))
        self._say(encode_chunk(TokenChunk(request_id, token_ids, "stop")))

    def refuse(self, request_id: str, error: MulmError) -> None:
        """End a request with an error."""
        del self.requests[request_id]
        self._say(ERROR + encode_error(request_id, error))

    def _say(self, line: bytes) -> None:
        self.link.connection.data_received(line + b"\n")

    def _hear(self, line: bytes) -> None:
        match line[:1]:
            case b"+":
                _, request = decode_request(line[1:])
                self.requests[request.request_id] = request
                self._read(request.prompt_ids)
            case b"-":
                self.requests.pop(line[1:].decode(), None)
            case _:
                self.told.append(line)

    def _read(self, ids: tuple[int, ...]) -> None:
        pages = _pages(ids)
        n_there = next((n for n, page in enumerate(pages) if page not in self._pages), len(pages))
        self.n_found += PAGE_TOKENS * n_there
        self.n_read += len(ids) - PAGE_TOKENS * n_there
        self._keep(ids)

    def _keep(self, ids: tuple[int, ...]) -> None:
        self._pages.update(_pages(ids))

    # What a transport and its socket do.

    def get_extra_info(self, _name: str) -> LinkedEngine:
        return self

    def setsockopt(self, *_option: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        for line in data.splitlines():
            self._hear(line)


def _pages(ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [ids[:end] for end in range(PAGE_TOKENS, len(ids) + 1, PAGE_TOKENS)]


async def turns_of_the_loop(n: int = 8) -> None:
    """Let happen what can happen."""
    for _ in range(n):
        await asyncio.sleep(0)
