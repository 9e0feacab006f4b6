"""The routes of an application: what a request may have meant that fits none of them.

Made by `serve_app.ingress` of what its routers declare; asked before each route for the names of
its query, and by `serve_app.errors` for ways out. Invariant: nobody without a key hears of a route,
but those of open paths, since whatever asks here stands behind `AuthMiddleware`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import product
from typing import get_origin

from fastapi import APIRouter, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from mulm.errors import ConfigError, nearest

CONTROL_ROOT = "/api/"
"""Of our own API; there a query holds nothing but what its route declares."""

OF_CLIENTS = frozenset({"api-version"})
"""What some of OpenAI's clients send with every request, whatever it asks for."""

_SHOWN_CHARS = 64
_MOST_CHARS = 128
"""Of a path that is compared with ours."""
_ALIKE = 0.8
_ANY = "[^/]+"
"""What a part of an address may be, where its route does not say more."""


class UnknownParameterError(ConfigError):
    """A query holds a parameter that its route does not have."""

    code = "unknown_parameter"


class Routes:
    """What some routers declare."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        found = [each for router in routers for each in router.routes]
        self._routes = [each for each in found if isinstance(each, APIRoute)]
        shown = (each for each in self._routes if each.include_in_schema)
        self._paths = sorted({path for each in shown for path in _paths_of(each)})

    def methods(self, path: str) -> list[str]:
        """Those that a path has."""
        fitting = (each for each in self._routes if each.path_regex.match(path))
        return sorted({method for each in fitting for method in each.methods or ()})

    def way_out(self, path: str) -> str:
        """A hint for a path that is not there: the nearest one, or where all are told."""
        if len(path) <= _MOST_CHARS:
            alike, nearest_one = max(_alike(known, path.rstrip("/")) for known in self._paths)
            if alike >= _ALIKE:
                return f"did you mean {nearest_one!r}?"
        return "GET /openapi.json, with a key, tells all routes"

    def require_known_query(self, route: APIRoute, path: str, query: Sequence[str]) -> None:
        """Refuse a query, given by its names, that its route does not declare.

        Under `/v1` a route that takes none ignores one: it may be of a gateway or a client, and
        there is nothing that it could be a mistake for.

        Raises:
            UnknownParameterError: it names the nearest parameter that there is.
            ConfigError: one that has a single value is given twice.
        """
        takes_many = dict(_query_of(route))
        known = takes_many.keys()
        if not (known or path.startswith(CONTROL_ROOT)):
            return
        passed = known if path.startswith(CONTROL_ROOT) else known | OF_CLIENTS
        for name in query:
            if name not in passed:
                shown = name[:_SHOWN_CHARS]
                hint = nearest(shown, known) if known else "this route takes no query"
                raise UnknownParameterError(f"{shown!r} is unknown here", hint=hint, param=shown)
        for name, times in Counter(query).items():
            if times > 1 and not takes_many.get(name, True):
                raise ConfigError(
                    f"{name!r} is given {times} times", hint="it has one value", param=name
                )


def routes_of(request: Request) -> Routes:
    """Those of the application that a request came to."""
    routes: Routes = request.app.state.routes
    return routes


async def require_known_query(request: Request) -> None:
    """For the application: stands before every route.

    Raises:
        UnknownParameterError, ConfigError: the query does not fit its route.
    """
    if request.scope["query_string"]:
        route = request.scope["route"]
        query = [name for name, _ in request.query_params.multi_items()]
        routes_of(request).require_known_query(route, request.scope["path"], query)


def _query_of(route: APIRoute) -> Iterator[tuple[str, bool]]:
    """Each parameter, and whether it may be given more than once."""
    for each in get_flat_params(route.dependant):
        if isinstance(each.field_info, Query):
            yield each.alias, get_origin(each.field_info.annotation) is list


def _paths_of(route: APIRoute) -> Iterator[str]:
    """The path, once for each word that a part of it is limited to."""
    words: Mapping[str, str] = {name: kind.regex for name, kind in route.param_convertors.items()}
    limited = {name: regex.split("|") for name, regex in words.items() if regex != _ANY}
    for chosen in product(*limited.values()):
        path = route.path_format
        for name, word in zip(limited, chosen, strict=True):
            path = path.replace(f"{{{name}}}", word)
        yield path


def _alike(known: str, asked: str) -> tuple[float, str]:
    """How alike two paths are, and ours with the names that the other has in the same places."""
    ours, theirs = known.split("/"), asked.split("/")
    if len(ours) != len(theirs):
        return _likeness(known, asked), known
    parts = list(zip(ours, theirs, strict=True))
    words = [pair for pair in parts if not pair[0].startswith("{")]
    fixed, given = ("/".join(side) for side in zip(*words, strict=True))
    filled = "/".join((b or a) if a.startswith("{") else a for a, b in parts)
    return _likeness(fixed, given), filled


def _likeness(known: str, asked: str) -> float:
    """From 0 to 1; exact where it may matter, since most paths are nothing alike."""
    matcher = SequenceMatcher(None, known, asked)
    bound = matcher.quick_ratio()
    return matcher.ratio() if bound >= _ALIKE else bound
