"""Responses that clients may fetch and go on with, in the ingress's memory.

Held by the service. Invariants: bounded in number and in bytes, the oldest go first; a response is
seen only with the key that made it; a restart of the ingress forgets all.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from mulm.chat import Message
from mulm.errors import NotFoundError

MAX_RESPONSES = 10_000
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and the conversation up to its end."""

    body: dict[str, Any]
    messages: tuple[Message, ...]
    n_bytes: int


class ResponseStore:
    """The newest responses by key and id."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._responses: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._n_bytes = 0

    def put(self, key_id: str, body: dict[str, Any], messages: list[Message]) -> None:
        """Keep a response; one that is larger than all the room is not kept."""
        n_bytes = len(json.dumps(body)) + sum(len(m.model_dump_json()) for m in messages)
        self._responses[key_id, body["id"]] = StoredResponse(body, tuple(messages), n_bytes)
        self._n_bytes += n_bytes
        while len(self._responses) > self._max_responses or self._n_bytes > self._max_bytes:
            _, oldest = self._responses.popitem(last=False)
            self._n_bytes -= oldest.n_bytes

    def get(self, key_id: str, response_id: str, param: str | None = None) -> StoredResponse:
        """One that is kept. Raises NotFoundError."""
        found = self._responses.get((key_id, response_id))
        if found is None:
            raise NotFoundError(
                f"no response {response_id[:64]!r} is kept",
                hint="responses are kept for a while only, and not with store=false",
                param=param,
            )
        return found

    def delete(self, key_id: str, response_id: str) -> None:
        """Forget one. Raises NotFoundError."""
        self._n_bytes -= self.get(key_id, response_id).n_bytes
        del self._responses[key_id, response_id]
