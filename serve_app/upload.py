"""Uploads: a form whose file goes to the store while it comes.

Called by the routes that take files. Invariants: memory does not grow with the file; a form that is
too large, too late, cut short or not what the route takes leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect, Request

from mulm.errors import DeadlineError
from mulm.incoming import IncomingFile
from mulm.manifest import BlobEntry
from mulm.store import Store
from serve_app.middleware import claimed_bytes
from serve_app.multipart import FormError, FormReader, Part

IDLE_TIMEOUT_S = 60.0
"""Without a byte."""
UPLOAD_TIMEOUT_S = 3600.0
"""For a whole file, also over a slow link."""

_MAX_FIELD_BYTES = 64 << 10
_MAX_FIELDS_BYTES = 1 << 20
"""What a form may hold beside its file."""
_WRITE_BYTES = 1 << 20
_SHOWN_CHARS = 64


class TooLargeError(FormError):
    """A file or a form that exceeds the limit."""

    code = "request_too_large"


class LateUploadError(DeadlineError):
    """An upload that stands still, or takes too long."""

    code = "request_timeout"


@dataclass(slots=True)
class Upload:
    """A form with one file, as it comes in; on leaving the block what was not kept is gone.

    Args:
        store: Where the file goes.
        max_bytes: Of the file.
        fields: What the form may hold beside `file`.
        idle_s: How long it may stand still.
        timeout_s: How long it may take.
    """

    store: Store
    max_bytes: int
    fields: Collection[str]
    idle_s: float = IDLE_TIMEOUT_S
    timeout_s: float = UPLOAD_TIMEOUT_S
    values: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    _file: IncomingFile | None = None
    _pending: bytearray = field(default_factory=bytearray)
    _part: Part | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._file is not None:
            self._file.discard()

    async def read(self, request: Request) -> None:
        """Take in the whole form.

        Raises:
            FormError: it is not such a form, or was cut short.
            TooLargeError, LateUploadError: it exceeds a limit.
            NoSpaceError: the disk is full.
        """
        claimed = claimed_bytes(request.headers)
        self._require_size(claimed - _MAX_FIELDS_BYTES)
        self.store.require_space(claimed)
        reader = FormReader(request.headers.get("content-type", ""))
        n_bytes = 0
        stream, end_s = request.stream(), time.monotonic() + self.timeout_s
        while (chunk := await self._next(stream, end_s)) is not None:
            n_bytes += len(chunk)
            self._require_size(n_bytes - _MAX_FIELDS_BYTES)
            for found in reader.feed(chunk):
                if isinstance(found, Part):
                    await self._begin(found)
                else:
                    await self._take(found)
        reader.close()
        await self._write()
        if self._file is None:
            raise FormError("the form has no file", param="file")
        if not self._file.size_bytes:
            raise FormError("the file is empty", param="file")

    @property
    def sha256(self) -> str:
        """Of the file that was read."""
        assert self._file is not None, "nothing was read"
        return self._file.sha256

    def keep(self) -> BlobEntry:
        """The file's bytes are a blob of the store from now on. Blocks. Raises NoSpaceError."""
        assert self._file is not None, "nothing was read"
        return self.store.keep(self.filename, self._file)

    async def _next(self, stream: AsyncGenerator[bytes, None], end_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(min(self.idle_s, end_s - time.monotonic())):
                return await anext(stream, None)
        except TimeoutError:
            raise LateUploadError("the file did not come in time") from None
        except ClientDisconnect:
            raise FormError("the client left before the end of the form") from None

    async def _begin(self, part: Part) -> None:
        await self._write()
        if part.name == "file" and part.filename is not None:
            if self._file is not None:
                raise FormError("the form has two files", param="file")
            self._file = await asyncio.to_thread(self.store.begin)
            self.filename = part.filename
        elif part.name == "file":
            raise FormError("`file` has no filename", hint="send it as a file", param="file")
        elif part.name not in self.fields:
            raise _unknown(part.name)
        elif part.name in self.values:
            raise FormError(f"{part.name!r} stands twice in the form", param=part.name)
        else:
            self.values[part.name] = ""
        self._part = part

    async def _take(self, content: bytes) -> None:
        self._pending += content
        assert self._part is not None, "a part begins before it holds something"
        if self._part.name != "file":
            if len(self._pending) > _MAX_FIELD_BYTES:
                raise FormError(f"{self._part.name!r} is too long", param=self._part.name)
        elif len(self._pending) >= _WRITE_BYTES:
            await self._write()

    async def _write(self) -> None:
        """Pass on what came of a part."""
        content, self._pending = self._pending, bytearray()
        if self._part is None:
            return
        if self._part.name != "file":
            self.values[self._part.name] += content.decode("utf-8", "replace")
        elif content and self._file is not None:
            self._require_size(self._file.size_bytes + len(content))
            await asyncio.to_thread(self._file.write, content)

    def _require_size(self, size_bytes: int) -> None:
        if size_bytes > self.max_bytes:
            raise TooLargeError(
                f"a file may have {self.max_bytes} bytes",
                hint="upload it in parts, or set MULM_MAX_UPLOAD_BYTES there",
                param="file",
            )


def _unknown(name: str) -> FormError:
    shown = name[:_SHOWN_CHARS]
    return FormError(f"the form has an unknown field {shown!r}", param=shown)
