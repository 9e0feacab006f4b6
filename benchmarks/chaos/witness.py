"""A client that writes facts and remembers which of them were acknowledged.

Run by the cases beside a fault. Invariants: what it asks to be there afterwards was answered with a
2xx; what was asked and not answered may be there or not, and both are right. A create that is not
answered is sent again with its idempotency key, and is never there twice.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Self

import httpx

from benchmarks.chaos.world import SERVED, World, wait_for
from mulm.errors import MulmError
from mulm.ledger import Ledger
from mulm.store import Store

_PAUSE_S = 0.1
_TIMEOUT_S = 30.0
_FILE_BYTES = 20_000
_N_TRIES = 4
_GONE = (502, 503, 504)
"""Answers of a server that may or may not have done what was asked."""

Act = Callable[[httpx.Client], bool]


class Witness:
    """Uploads files, makes and revokes keys, and moves an alias, one after another, in a thread."""

    def __init__(self, world: World, draw: Random, pause_s: float = _PAUSE_S) -> None:
        self._world, self._draw, self._pause_s = world, draw, pause_s
        self.files: dict[str, str] = {}
        """Acknowledged uploads: id and SHA-256."""
        self.keys: set[str] = set()
        self.texts: dict[str, str] = {}
        """Of every key that it was shown."""
        self.revoked: set[str] = set()
        self.unsure: set[str] = set()
        """Keys that somebody asked to revoke, whatever came of it."""
        self._named: set[str] = set()
        """What it asked to be made: names, and checksums of files; others make their own."""
        self._alias_may_be = {1}
        self.n_acknowledged = 0
        self.n_refused = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(2 * _TIMEOUT_S)

    def wait_for_more(self, n: int, timeout_s: float) -> None:
        """Until so many more facts were acknowledged. Raises TimeoutError."""
        wanted = self.n_acknowledged + n
        wait_for(lambda: self.n_acknowledged >= wanted, timeout_s, "facts")

    def missing(self) -> list[str]:
        """What was acknowledged and is not so, read from the files of the installation."""
        store = Store(self._world.home.store)
        with Ledger(self._world.home.ledger) as ledger:
            files = {file.id: file for file in ledger.files()}
            known = ledger.valid_keys()
            alias = ledger.aliases("model", SERVED)["live"]
        keys = {key.id for key in known}
        wrong = [f"the key {key} is gone" for key in sorted(self.keys - keys - self.unsure)]
        wrong += self.repeated("key", [key.name for key in known])
        wrong += self.repeated("file", [file.sha256 for file in files.values()])
        wrong += [f"the key {key} is back" for key in sorted(self.revoked & keys)]
        if alias not in self._alias_may_be:
            wrong.append(f"the alias is {alias}, not one of {sorted(self._alias_may_be)}")
        for file_id, sha256 in self.files.items():
            if file_id not in files:
                wrong.append(f"the file {file_id} is gone")
            elif _checksum(store, sha256) != sha256:
                wrong.append(f"the bytes of {file_id} are not those that were sent")
        return wrong

    def named(self, name: str) -> str:
        """A name or checksum that is to be there once at most."""
        self._named.add(name)
        return name

    def repeated(self, what: str, names: Sequence[str]) -> list[str]:
        """What is wrong where each that it named was to be made once."""
        counts = Counter(name for name in names if name in self._named)
        return [f"the {what} {name} was made twice" for name, n in counts.items() if n > 1]

    def acts(self) -> Sequence[Act]:
        """What it does, each as often as the others; True where it was acknowledged."""
        if not self.revoked and len(self.keys) > 2:
            return (self._revoke_key,)
        return (self._upload, self._make_key, self._revoke_key, self._move_alias)

    def create(self, client: httpx.Client, path: str, **request: Any) -> httpx.Response:
        """Send a create until it is answered, always with one idempotency key.

        Raises:
            httpx.TransportError: the last try was not answered either.
        """
        headers = {"Idempotency-Key": f"w-{self._draw.randrange(16**12):012x}"}
        for n_left in reversed(range(_N_TRIES)):
            try:
                reply = client.post(path, headers=headers, **request)
                if reply.status_code not in _GONE or not n_left:
                    return reply
            except httpx.TransportError:
                if not n_left:
                    raise
            self._is_over.wait(self._pause_s * _N_TRIES)
        raise AssertionError("the last try returns or raises")

    def _write_on(self) -> None:
        headers = {"Authorization": f"Bearer {self._world.key}"}
        while not self._is_over.is_set():
            with httpx.Client(
                base_url=self._world.url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
            ) as client:
                try:
                    was_done = self._draw.choice(self.acts())(client)
                except httpx.TransportError:
                    was_done = False
            self.n_acknowledged += was_done
            self.n_refused += not was_done
            self._is_over.wait(self._pause_s)

    def _upload(self, client: httpx.Client) -> bool:
        content = self._draw.randbytes(_FILE_BYTES)
        sha256 = self.named(hashlib.sha256(content).hexdigest())
        form = {"file": ("a.jsonl", content)}
        reply = self.create(client, "/v1/files", files=form, data={"purpose": "user_data"})
        if reply.is_success:
            self.files[reply.json()["id"]] = sha256
        return reply.is_success

    def _make_key(self, client: httpx.Client) -> bool:
        order = {"name": self.named(f"k{self._draw.randrange(10**9)}")}
        reply = self.create(client, "/api/v1/keys", json=order)
        if reply.is_success:
            made = reply.json()
            self.keys.add(made["id"])
            self.texts[made["id"]] = made["key"]
        return reply.is_success

    def _revoke_key(self, client: httpx.Client) -> bool:
        known = sorted(self.keys - self.unsure)
        if len(known) < 2:
            return self._make_key(client)
        key = self._draw.choice(known)
        self.unsure.add(key)
        reply = client.delete(f"/api/v1/keys/{key}")
        if reply.is_success:
            self.keys.discard(key)
            self.revoked.add(key)
        return reply.is_success

    def _move_alias(self, client: httpx.Client) -> bool:
        version = self._draw.choice((1, 2))
        self._alias_may_be.add(version)
        path = f"/api/v1/models/{SERVED}/aliases/live"
        reply = client.put(path, json={"version": version})
        if reply.is_success:
            self._alias_may_be = {version}
        return reply.is_success


def _checksum(store: Store, sha256: str) -> str:
    try:
        path = store.root / "blobs" / sha256[:2] / sha256
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, MulmError):
        return ""
