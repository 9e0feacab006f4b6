"""`--url` and `--key`: which server a verb works with, and the way to it.

Used by the groups of verbs. Invariants: without `--url` and MULM_URL all happens on this machine; a
key is never part of what is printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.cli_verbs import open_journey, shown_progress
from mulm.config import Frozen
from mulm.errors import AuthError, ConfigError
from mulm.manifest import Kind
from mulm.records import Version
from mulm.terminal_text import harmless

if TYPE_CHECKING:
    from jobs.chat_client import ChatClient
    from jobs.remote import Remote

F = TypeVar("F", bound=Callable[..., Any])

URL, KEY = "MULM_URL", "MULM_API_KEY"
_URL, _KEY = "mulm.url", "mulm.key"


@dataclass(frozen=True, slots=True)
class Server:
    """A server elsewhere."""

    url: str
    key: str


def with_server(command: F) -> F:
    """The options `--url` and `--key`."""

    def note(context: click.Context, option: click.Parameter, value: str | None) -> None:
        context.meta[_URL if option.name == "url" else _KEY] = value

    url = click.option(
        "--url", envvar=URL, metavar="URL", expose_value=False, callback=note,
        help=f"A server elsewhere, such as http://10.0.0.5:8000 [{URL}].",
    )  # fmt: skip
    key = click.option(
        "--key", envvar=KEY, metavar="KEY", expose_value=False, callback=note,
        help=f"Its API key, or @FILE that holds it [{KEY}].",
    )  # fmt: skip
    return url(key(command))


def chosen_server() -> Server | None:
    """The server that the verb under way was given; None for this machine.

    Raises:
        AuthError: a server without a key.
        ConfigError: what is no address of a server, or a file of a key that cannot be read.
    """
    from jobs.remote import address_of

    meta = click.get_current_context().meta
    url, key = meta.get(_URL), meta.get(_KEY)
    if not url:
        return None
    address_of(url)
    if not key:
        raise AuthError(f"no key for {url}", hint=f"--key KEY, --key @FILE, or {KEY}")
    return Server(url, _read(key))


@contextmanager
def open_remote() -> Iterator[Remote | None]:
    """The control API of the chosen server; None for this machine."""
    from jobs.remote import Remote

    server = chosen_server()
    if server is None:
        yield None
        return
    with Remote(server.url, server.key) as remote:
        yield remote


def done_elsewhere(kind: str, config: Callable[[], Frozen]) -> dict[str, Any] | None:
    """Have the chosen server do a run, shown until it ends; None for this machine."""
    from jobs.remote_follow import start_and_follow

    with open_remote() as remote:
        if remote is None:
            return None
        given = config().model_dump(mode="json", exclude_unset=True)
        return start_and_follow(remote, kind, given, shown_progress())


def versions_of(kind: Kind, name: str | None = None) -> list[Version]:
    """All versions of a kind, or of one name, oldest first, of the chosen server or here."""
    from jobs.remote_versions import RemoteVersions

    with open_remote() as remote:
        if remote is not None:
            return RemoteVersions(remote).all(kind, name)
    with open_journey() as journey:
        return [one for one in journey.versions(kind) if name in (None, one.name)]


def show_elsewhere(kind: Kind, ref: str, as_json: bool) -> bool:
    """Print a version of the chosen server; False for this machine."""
    from jobs.remote_versions import RemoteVersions, description_lines

    with open_remote() as remote:
        if remote is None:
            return False
        told = RemoteVersions(remote).show(kind, ref)
    for line in [json.dumps(told)] if as_json else description_lines(kind, told):
        click.echo(line if as_json else harmless(line))
    return True


@contextmanager
def open_api() -> Iterator[Remote]:
    """The control API of the chosen server, or of the application on this machine.

    Raises:
        NotRunningError: it is not up.
    """
    from actors.cluster import connect
    from actors.tls_trust import trust_of
    from jobs.remote import Remote
    from mulm.home import Home
    from serve_app.keys import read_first_key

    server = chosen_server()
    if server is not None:
        with Remote(server.url, server.key) as remote:
            yield remote
        return
    home = Home.from_env()
    info = connect(home)
    with Remote(info.api_url, read_first_key(home), trust_of(info)) as remote:
        yield remote


def open_chat() -> ChatClient:
    """Where models answer: the chosen server, or the application on this machine."""
    from jobs.chat_client import ChatClient
    from jobs.remote import address_of

    server = chosen_server()
    if server is not None:
        return ChatClient(address_of(server.url), server.key)
    with open_journey() as journey:
        return journey.client()


def _read(key: str) -> str:
    if not key.startswith("@"):
        return key.strip()
    path = Path(key[1:]).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = (error.strerror if isinstance(error, OSError) else "") or "it is no text"
        raise ConfigError(
            f"cannot read the key in {str(path)!r}: {told}",
            hint=f"--key @FILE, or {KEY}=@FILE, names a file that holds the key alone",
        ) from None
