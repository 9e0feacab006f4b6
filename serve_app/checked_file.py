"""A file as an answer, whose bytes are checked while they go.

Made by the route that gives files out. Invariants: the first byte waits for no checksum; a whole
file that is damaged never ends like one that is whole, since a piece is held back until all were
hashed; memory does not grow with the file. Parts of a file are not checked: whoever puts them
together compares the checksum.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from mulm.errors import CorruptError, MulmError

_log = logging.getLogger(__name__)

_WHOLE = 200


class CheckedFile(FileResponse):
    """The file with this checksum; a connection that is cut where it has another.

    Args:
        path: Where it lies.
        sha256: Of all of its bytes.
        headers: Of the answer.
        mend: Called where it is damaged, for whoever asks next; may block, and raise a MulmError.
    """

    def __init__(
        self, path: Path, sha256: str, headers: Mapping[str, str], mend: Callable[[], object]
    ) -> None:
        super().__init__(path, media_type="application/octet-stream", headers=headers)
        self._sha256, self._mend = sha256, mend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            CorruptError: behind the first byte, which has the server cut the connection.
        """
        digest, is_whole = hashlib.sha256(), False
        held: list[Message] = []

        async def checked(message: Message) -> None:
            nonlocal is_whole
            if message["type"] == "http.response.start":
                is_whole = message["status"] == _WHOLE
                await send(message)
                return
            held.append(message)
            if is_whole:
                digest.update(message["body"])
                if not message["more_body"]:
                    await self._require(digest.hexdigest())
            n_held = 1 if is_whole and message["more_body"] else 0
            while len(held) > n_held:
                await send(held.pop(0))

        await super().__call__(scope, receive, checked)

    async def _require(self, sha256: str) -> None:
        if sha256 == self._sha256:
            return
        _log.error("a file is damaged, its answer is cut short sha256=%s", self._sha256)
        try:
            await asyncio.to_thread(self._mend)
        except MulmError as error:
            _log.error("it cannot be mended sha256=%s why=%s", self._sha256, error.message)
        raise CorruptError("the file does not match its checksum", sha256=self._sha256)
